"""Attacks a training again and again, and sees whether it keeps its promises. `tools/chaos.py` runs it.

A round is one run: started, attacked, started again by the same command, until it is finished. Then it is held
against an undisturbed run: the same draws, none missing, and on a CPU the same bits. Rounds follow until as many
attacks as asked for have hit a living job.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kws_dist.chaos_attacks import Kind, Plan, attack, plan
from kws_dist.chaos_job import BrokenPromiseError, Course, Job, phase
from kws_dist.chaos_log import ChaosLog, Hit, Life
from kws_dist.chaos_verdict import verdict
from kws_dist.errors import DataError
from kws_dist.run import RunFolder

_SHARE_OF_RUN = 0.33
"""An attack falls within this part of the time that the training takes, so that some are needed to get to its end."""
_FIRST_START_UP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is attacked, how often, and with what."""

    commands: Sequence[Callable[[Path], Sequence[str]]]
    """What makes the command that trains into a folder; where there are several, the starts take turns."""
    script: str
    """The script that the ranks run, as it is called in those commands."""
    reference: Path
    """A finished, undisturbed run of the same training with a draw log."""
    out: Path
    """Folder for the runs."""
    disk: Path | None
    """A small disk to train on, which is filled now and then; None: train in `out`."""
    kinds: Sequence[Kind]
    seed: int
    attacks: int
    """How many; 0: until the time is over."""
    hours: float
    """For how long; 0: until the attacks are done."""
    same_bits: bool
    """Whether weights and figures are to be the same bits as the reference's."""
    hang_s: float


class Chaos:
    """Carries a campaign out."""

    def __init__(self, campaign: Campaign, log: ChaosLog) -> None:
        self._campaign, self._log = campaign, log
        self._course = Course.of(campaign.reference)
        self._hits = self._starts = 0
        self._began_s, self._start_up_s = time.monotonic(), _FIRST_START_UP_S

    def run(self) -> str:
        """Attack until it is enough; returns the first broken promise, "" if all were kept."""
        number, problem = 0, ""
        while not problem and (number == 0 or self._goes_on()):
            number += 1
            problem = self._round(number)
        return f"round {number}: {problem}" if problem else ""

    def _goes_on(self) -> bool:
        campaign, passed_s = self._campaign, time.monotonic() - self._began_s
        in_time = not campaign.hours or passed_s < 3600.0 * campaign.hours
        return in_time and (not campaign.attacks or self._hits < campaign.attacks)

    def _round(self, number: int) -> str:
        """Train one run to its end; returns the promise that it broke, and then keeps its folder."""
        campaign, (run_dir, said) = self._campaign, self._fresh(number)
        try:
            problem = ""
            while not problem and RunFolder(run_dir).status() != "finished":
                problem = self._live(number, run_dir, said)
        except (BrokenPromiseError, DataError) as error:
            problem = str(error)
        problem = problem or verdict(run_dir, campaign.reference, same_bits=campaign.same_bits)
        compared = "draws, weights and figures" if campaign.same_bits else "draws"
        self._log.round(number, problem or f"finished, with the same {compared} as undisturbed")
        self._put_away(run_dir, said, keep=bool(problem))
        return problem

    def _live(self, number: int, run_dir: Path, said: Path) -> str:
        """Start the job once, and attack it until it ends; returns the promise that it broke."""
        campaign, self._starts = self._campaign, self._starts + 1
        command = campaign.commands[self._starts % len(campaign.commands)](run_dir)
        job = Job(command, campaign.script, run_dir, said, campaign.hang_s)
        life = Life(number, self._starts, job.checkpoint)
        try:
            self._attack_until_it_ends(job, life, run_dir)
            life.exit_code = job.wait()
        finally:
            job.kill()
            place = job.place()
            life.began, life.said, life.no_room = place.begin if place else None, job.said(), job.found_no_room()
            self._log.life(life)
        life.status = RunFolder(run_dir).status() or ""
        return life.broken_promise()

    def _attack_until_it_ends(self, job: Job, life: Life, run_dir: Path) -> None:
        soon_s: float | None = None
        while self._goes_on():
            planned = plan(self._hits, self._campaign.seed, self._campaign.kinds)
            if not (self._await(job, planned) if soon_s is None else self._rest(job, soon_s)):
                return
            hit = self._strike(planned, job, run_dir)
            if hit is None:
                return
            life.hits.append(hit)
            self._hits, soon_s = self._hits + 1, planned.next_soon_s
            if not planned.kind.lives_on and soon_s is None:
                return

    def _await(self, job: Job, planned: Plan) -> bool:
        """Wait for the moment of an attack; returns False if the job has ended before."""
        if job.place() is None:
            if planned.early:
                return self._rest(job, planned.moment * self._start_up_s)
            if not job.wait_until(lambda: job.place() is not None):
                return False
            self._start_up_s = time.monotonic() - job.started_s
        return self._rest(job, planned.moment * self._course.train_s * _SHARE_OF_RUN)

    def _rest(self, job: Job, duration_s: float) -> bool:
        until_s = time.monotonic() + duration_s
        return job.wait_until(lambda: time.monotonic() >= until_s)

    def _strike(self, planned: Plan, job: Job, run_dir: Path) -> Hit | None:
        if planned.kind.needs_ranks and not job.wait_until(lambda: bool(job.ranks())):
            return None
        at_s, busy_with, place = time.monotonic() - self._began_s, phase(job, run_dir, self._course), job.place()
        target = attack(planned, job, run_dir, (self._campaign.disk or self._campaign.out) / "hog")
        if not target:
            return None
        step = None if place is None else place.begin if place.step is None else place.step
        return Hit(self._hits + 1, at_s, planned.kind, target, busy_with, step)

    def _fresh(self, number: int) -> tuple[Path, Path]:
        """Return a new run folder, and the file for what its jobs print."""
        out, name = self._campaign.out, f"round-{number:04d}"
        run_dir = (self._campaign.disk or out) / name
        run_dir.mkdir(parents=True)
        if self._campaign.disk:  # the proof needs room whatever happens to the disk
            (out / f"{name}-draws").mkdir()
            (run_dir / "draws").symlink_to((out / f"{name}-draws").resolve())
        return run_dir, out / f"{name}.txt"

    def _put_away(self, run_dir: Path, said: Path, *, keep: bool) -> None:
        """Remove what a round has left, or keep it, in `out`."""
        out = self._campaign.out
        if keep and self._campaign.disk:
            shutil.copytree(run_dir, out / run_dir.name)
        if not keep:
            said.unlink(missing_ok=True)
        if not keep or self._campaign.disk:
            shutil.rmtree(run_dir)
            shutil.rmtree(out / f"{run_dir.name}-draws", ignore_errors=True)
