"""One start of a training that is to be attacked: its processes, whatever their sessions are, and how far it is."""

import errno
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from kws_dist.draw_log import Place, last_place
from kws_dist.metrics_file import read_metrics
from kws_dist.run import RunFolder

_MARK = "KWS_CHAOS_JOB"
_LOOK_S = 0.02
_WARNING = re.compile(r"W\d{4} .*torch/distributed/elastic")
_RANKS_FAILED = re.compile(r"^E\d{4} .*torch/distributed/elastic.*failed", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class BrokenPromiseError(Exception):
    """The training did what it promises not to do; the message says what."""


@dataclass(frozen=True)
class Course:
    """What an undisturbed run of the same training does, and when."""

    steps: int
    """How many it trains."""
    validated: frozenset[int]
    """Behind how many steps it validates."""
    train_s: float
    """How long it takes from its first step to the end."""

    @staticmethod
    def of(run_dir: Path) -> "Course":
        """Read it from a finished run with a draw log."""
        run, begin = RunFolder(run_dir), last_place(run_dir)
        assert begin is not None, "a finished run with a draw log"
        records = read_metrics(run.metrics_file)
        return Course(
            steps=int(json.loads((run_dir / "state.json").read_text())["step"]),
            validated=frozenset(record["step"] for record in records if "val/loss" in record),
            train_s=max((run_dir / "state.json").stat().st_mtime - begin.time, 0.1),
        )


class Job:
    """A started training and all the processes that belong to it, told by a mark in their environment."""

    def __init__(self, command: Sequence[str], script: str, run_dir: Path, said: Path, hang_s: float) -> None:
        """`command` starts it, with `script` in the ranks' command lines; `said` takes what it prints, at its end.

        `hang_s`: how long nothing may happen before that is called a hang.
        """
        self._script, self._run, self._said, self._hang_s = script, RunFolder(run_dir), said, hang_s
        self._mark = secrets.token_hex(8)
        before = last_place(run_dir)
        self._jobs_before = before.job if before else 0
        self.checkpoint = newest_checkpoint(run_dir)
        """The step of the newest checkpoint that it found, 0 if there was none."""
        with said.open("ab") as file:
            self._said_from = file.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, _MARK: self._mark},
            )
        self.started_s = time.monotonic()
        self._moved_s, self._signs = self.started_s, ()

    @property
    def pid(self) -> int:
        """The process that was started: the launcher, if there is one."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def place(self) -> Place | None:
        """Return where it began and what it trains on now; None while it still starts."""
        place = last_place(self._run.path)
        return place if place and place.job > self._jobs_before else None

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Wait; returns False if it ended before that. `BrokenPromiseError` if nothing happens any more."""
        while self.runs:
            if reached():
                return True
            self._look_for_life()
            time.sleep(_LOOK_S)
        return False

    def wait(self) -> int:
        """Wait until all of its processes are gone; returns the exit code of the one that was started."""
        self.wait_until(lambda: False)
        while self.processes():
            self._look_for_life()
            time.sleep(_LOOK_S)
        return self._process.wait()

    def kill(self) -> None:
        """Kill -9 all of its processes, also those that are being started meanwhile."""
        self._process.send_signal(signal.SIGSTOP)  # it starts no more
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.poll()  # takes its exit code, and so lets go of it
            time.sleep(_LOOK_S)

    def processes(self) -> list[psutil.Process]:
        """Return its processes, in whatever session they are and whoever their parent is by now."""
        return [process for process in psutil.process_iter() if _environment(process).get(_MARK) == self._mark]

    def ranks(self) -> dict[int, psutil.Process]:
        """Return the processes that train, as far as they are on this machine and there yet, by rank."""
        found: dict[int, psutil.Process] = {}
        for process in self.processes():
            with suppress(psutil.Error):
                if self._trains(process.cmdline()) and not self._trains(psutil.Process(process.ppid()).cmdline()):
                    found[int(_environment(process).get("RANK", "0"))] = process
        return dict(sorted(found.items()))

    def said(self) -> str:
        """Return the last line that says something, leaving out what a launcher adds about ranks that have failed."""
        lines = _RANKS_FAILED.split(self._words())[0].splitlines()
        telling = (line for line in reversed(lines) if re.search(r"\w", line) and not _WARNING.match(line))
        return next(telling, "nothing").strip()

    def found_no_room(self) -> bool:
        """Whether it has said that the disk is full."""
        return os.strerror(errno.ENOSPC) in self._words()

    def _words(self) -> str:
        with self._said.open("rb") as file:
            file.seek(self._said_from)
            return _COLOURS.sub("", file.read().decode(errors="replace"))

    def _trains(self, words: Sequence[str]) -> bool:
        return self._script in words[1:3]  # python [-u] train.py: not the launcher, which has it further behind

    def _look_for_life(self) -> None:
        """Raise `BrokenPromiseError` if there has been no sign of it for too long."""
        draws, now_s = self._run.path / "draws", time.monotonic()
        files = [self._said, self._run.metrics_file, self._run.path / "state.json", *draws.glob("job-*")]
        signs = tuple(_size_and_time(file) for file in files)
        if signs != self._signs:
            self._signs, self._moved_s = signs, now_s
        elif now_s - self._moved_s > self._hang_s:
            raise BrokenPromiseError(
                f"the job hangs: no sign of life for {self._hang_s:g} s; it last said: {self.said()}"
            )


def newest_checkpoint(run_dir: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name[5:]) for path in _checkpoints(run_dir)), default=0)


def phase(job: Job, run_dir: Path, course: Course) -> str:
    """Say what a job is busy with, as far as its files tell."""
    place = job.place()
    if place is None:
        return "start-up"
    done = place.step + 1 if place.step is not None else place.begin
    if any((run_dir / "checkpoints").glob("*.tmp")):
        return "saving"
    if done in course.validated:
        records = read_metrics(run_dir / "metrics.jsonl")
        if not any(record["step"] == done and "val/loss" in record for record in records):
            return "validation"
    return "conclusion" if done >= course.steps else "training"


def _checkpoints(run_dir: Path) -> list[Path]:
    return [path for path in (run_dir / "checkpoints").glob("step-*") if path.name[5:].isdigit()]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # it is gone, or another user's
        return {}


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
