"""What is done to a training that has to survive it."""

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from kws_dist.chaos_job import Job

_EARLY_SHARE, _TWICE_SHARE = 0.2, 0.3
_FREEZE_S, _FULL_S, _SOON_S = (0.2, 2.0), (0.3, 2.0), 1.0
_LARGEST_PIECE_BYTES, _SMALLEST_PIECE_BYTES = 1 << 26, 1 << 12


@dataclass(frozen=True)
class Kind:
    """A way to attack."""

    name: str
    number: signal.Signals | None = None
    """What the processes get, where that is how."""
    to: str = ""
    """Which processes: `all`, `launcher`, its `group` (a terminal's Ctrl-C), all `ranks`, `any rank`, or `one rank` of
    several."""
    polite: bool = False
    """The job is asked to stop: it saves, and says that it has stopped."""
    lives_on: bool = False
    """The job is to go on as if nothing had been."""

    @property
    def needs_ranks(self) -> bool:
        """Whether it has to wait until there are ranks to be hit."""
        return self.to in ("ranks", "one rank", "any rank")


FULL_DISK = Kind("disk full", lives_on=True)
KINDS = (
    Kind("kill -9", signal.SIGKILL, "all"),
    Kind("kill -9 of one rank", signal.SIGKILL, "one rank"),
    Kind("SIGTERM", signal.SIGTERM, "launcher", polite=True),
    Kind("SIGTERM to one rank", signal.SIGTERM, "one rank", polite=True),
    Kind("SIGUSR1", signal.SIGUSR1, "ranks", polite=True),
    Kind("SIGUSR1 to one rank", signal.SIGUSR1, "one rank", polite=True),
    Kind("Ctrl-C", signal.SIGINT, "group", polite=True),
    Kind("SIGINT to one rank", signal.SIGINT, "one rank", polite=True),
    Kind("stop file", polite=True),
    Kind("frozen for a while", signal.SIGSTOP, "any rank", lives_on=True),
    FULL_DISK,
)


def kinds_for(processes: int, *, disk: bool) -> list[Kind]:
    """Return the kinds that make sense: with one process, `one rank` is all there is."""
    return [kind for kind in KINDS if (kind.to != "one rank" or processes > 1) and (kind is not FULL_DISK or disk)]


@dataclass(frozen=True)
class Plan:
    """One attack to come, all of it random."""

    number: int
    kind: Kind
    early: bool
    """It comes while the job starts; else while it trains."""
    moment: float
    """When, as a share of the time in question, in [0, 1)."""
    hold_s: float
    """How long a rank is frozen, or the disk full."""
    rank: float
    """Which rank, as a share of their number, in [0, 1)."""
    next_soon_s: float | None
    """When the next attack comes on top of this one, where it ends the job but not at once."""


def plan(number: int, seed: int, kinds: Sequence[Kind]) -> Plan:
    """Return attack `number` of a seed: each kind as often as the others, in an order that is another each time."""
    cycle, place = divmod(number, len(kinds))
    kind = random.Random(f"{seed} {cycle}").sample(list(kinds), len(kinds))[place]
    chance = random.Random(f"{seed} attack {number}")
    early, twice = chance.random() < _EARLY_SHARE, chance.random() < _TWICE_SHARE
    hold_s = chance.uniform(*(_FULL_S if kind is FULL_DISK else _FREEZE_S))
    soon_s = chance.uniform(0.0, _SOON_S) if twice and kind.polite else None
    return Plan(number, kind, early, chance.random(), hold_s, chance.random(), soon_s)


def attack(plan: Plan, job: Job, run_dir: Path, hog: Path) -> str:
    """Do it; returns what was hit, "" if the ranks have ended before. `hog`: a file on the run's disk, to fill it."""
    kind = plan.kind
    if kind is FULL_DISK:
        _fill(hog, job, plan.hold_s)
        return "the run's"
    if kind.number is None:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "stop").touch()
        return "run folder"
    if kind.to == "all":
        job.kill()
        return "all"
    if kind.to in ("launcher", "group"):
        with suppress(ProcessLookupError):
            (os.kill if kind.to == "launcher" else os.killpg)(job.pid, kind.number)
        return kind.to
    ranks = job.ranks()
    return _signal_ranks(plan, ranks, kind.number) if ranks else ""


def _signal_ranks(plan: Plan, ranks: dict[int, psutil.Process], number: signal.Signals) -> str:
    chosen = ranks
    if plan.kind.to != "ranks":
        rank = sorted(ranks)[int(plan.rank * len(ranks))]
        chosen = {rank: ranks[rank]}
    for process in chosen.values():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(plan.hold_s)
        for process in chosen.values():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
    return "all" if plan.kind.to == "ranks" else f"rank {next(iter(chosen))}"


def _fill(hog: Path, job: Job, hold_s: float) -> None:
    """Take what is free of a disk, and whatever becomes free, for a while."""
    until_s, size, piece = time.monotonic() + hold_s, 0, _LARGEST_PIECE_BYTES
    with hog.open("wb") as file:
        while time.monotonic() < until_s and job.runs:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
            except OSError:
                piece = max(piece // 2, _SMALLEST_PIECE_BYTES)
                if piece == _SMALLEST_PIECE_BYTES:
                    time.sleep(0.01)
    hog.unlink()
