"""Trains in forked processes, and kills them at calls of the file system while a checkpoint is saved.

All is imported once, so that hundreds of trainings take minutes. Prints a line of JSON for each crash.
Arguments: shards without a validation split, a folder to work in, number of processes, and which crashes: `all`, or
`changes`, each of which leaves other files than the one before; of these every so many, if a number follows.
"""

import io
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch._dynamo  # noqa: F401 -- which every optimizer imports

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from launching import SMALL  # noqa: E402
from run_folders import assert_identical, result_without_times  # noqa: E402

from kws_dist.config import parse  # noqa: E402
from kws_dist.errors import main_guard  # noqa: E402
from launch.train import train  # noqa: E402

# Each step is the best, as the data have no validation split: the later saves replace and remove all there is.
SETTINGS = ("--train.steps", "3", "--train.eval_every_steps", "1", "--tracking.wandb", "disabled")
ASKS_NOTHING = {"fspath", "fileno"}  # of posix and of files, but not of the file system

CHANGES = {"mkdir", "write", "flush", "truncate", "rename", "replace", "unlink", "rmdir", "symlink", "link", "utime"}


@dataclass(frozen=True)
class Crash:
    """Where a process is killed."""

    save: int
    """In which save, counted from 0."""
    call: int
    """At which of its calls, counted from 0."""
    when: str
    """`before` it, `after` it, or `torn`: after it, with half of the file gone."""


class Tracer:
    """Follows what the thread that saves asks of the file system: every call of `posix` and of open files."""

    def __init__(self, crash: Crash | None = None) -> None:
        self.calls: list[list[str]] = []
        self._crash = crash

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        """Be called by Python before and after each call."""
        if not threading.current_thread().name.startswith("saver"):
            return
        if event == "call" and frame.f_code.co_qualname == "Saver._write":
            self.calls.append([])
        if event not in ("c_call", "c_return", "c_exception") or not (self.calls and _asks_the_file_system(function)):
            return
        if event == "c_call":
            self.calls[-1].append(function.__name__)
            self._maybe_die("before")
        else:
            self._maybe_die("after")
            if function.__name__ == "write":
                self._maybe_die("torn", function.__self__)

    def _maybe_die(self, when: str, file: Any = None) -> None:
        if self._crash == Crash(len(self.calls) - 1, len(self.calls[-1]) - 1, when):
            if file:
                file.flush()
                os.truncate(file.name, Path(file.name).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def _asks_the_file_system(function: Any) -> bool:
    in_file = isinstance(getattr(function, "__self__", None), io.IOBase)
    could = in_file or getattr(function, "__module__", "") == "posix" or function is io.open
    return could and function.__name__ not in ASKS_NOTHING


def trained(shards: str, run_dir: Path, world: int, crash: Crash | None = None, trace: Path | None = None) -> list[int]:
    """Train in as many processes, the first of which may be killed; return how they ended, as `waitpid` says it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--data.shards", shards, "--run_dir", str(run_dir), *SMALL, *SETTINGS]
    ranks = []
    for rank in range(world):
        if world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks.append(_forked(lambda rank=rank: _train(arguments, Tracer(crash if rank == 0 else None), trace, rank)))
    return [os.waitpid(pid, 0)[1] for pid in ranks]


def _train(arguments: list[str], tracer: Tracer, trace: Path | None, rank: int) -> int:
    said = os.open(os.devnull if trace is None else f"{trace}.said-{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    threading.setprofile(tracer)
    code = main_guard(lambda: train(parse(arguments), debug=False), debug=False)
    if trace and rank == 0:
        trace.write_text(json.dumps(tracer.calls))
    return code


def _forked(do: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    with suppress(BaseException):
        os._exit(do())
    os._exit(70)


def crashes(calls: list[list[str]], which: str) -> Iterator[Crash]:
    """Yield the places to crash in the first save, and in the first of those that replace and remove most."""
    for save in sorted({0, max(range(len(calls)), key=lambda save: len(calls[save]))}):
        if which == "changes":
            yield Crash(save, 0, "before")
        for call, name in enumerate(calls[save]):
            torn = ["torn"] if name == "write" else []
            if which == "all":
                yield from (Crash(save, call, when) for when in ("before", "after", *torn))
            elif _changes(name, *calls[save][call + 1 : call + 2]):
                yield from (Crash(save, call, when) for when in ("after", *torn))


def _changes(name: str, following: str = "") -> bool:
    """Whether a call leaves other files than were there before it."""
    return name in CHANGES or (name == "open" and following == "write")


def main() -> None:
    shards, folder, world, which = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    every = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    whole, trace = folder / "whole", folder / "trace.json"
    assert trained(shards, whole, world, trace=trace) == [0] * world, Path(f"{trace}.said-0").read_text()
    calls = json.loads(trace.read_text())
    for crash in list(crashes(calls, which))[::every]:
        run_dir = folder / "run"
        ended = trained(shards, run_dir, world, crash)
        left = sorted(path.name for path in run_dir.glob("checkpoints/*"))
        again = trained(shards, run_dir, world)
        problem = "" if again == [0] * world else f"the second job ended with {again}"
        try:
            assert_identical(whole, run_dir)
            assert result_without_times(whole) == result_without_times(run_dir)
        except (AssertionError, OSError, IndexError) as error:
            problem = problem or repr(error)
        name = calls[crash.save][crash.call]
        print(json.dumps({**asdict(crash), "name": name, "ended": ended, "left": left, "problem": problem}), flush=True)
        shutil.rmtree(run_dir)


if __name__ == "__main__":
    main()
