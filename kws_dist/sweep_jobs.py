"""Runs the cells of a sweep here, some side by side; kws_dist/sweep_array.py does so on a cluster."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kws_dist.config import Config, TrainConfig, differences, load_file
from kws_dist.errors import DataError, UsageError, sentence
from kws_dist.run import RunFolder
from kws_dist.sweep import Cell

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h

Say = Callable[[str], None]


# What a job may change when it goes on with a run, and what another result comes of: `_other_settings` says when.
_LENGTH = {"train.epochs", "train.steps", "train.max_minutes", "train.patience_epochs"}
_CHOICE_OF_BEST = {"train.eval_every_epochs", "train.eval_every_steps"}
_MICRO_BATCH = {"train.accumulate"}  # by which batch norm and dropout go
_STREAMED_DRAWS = {"data.residency", "data.lanes", "data.window_shards"}


def is_finished(cell: Cell) -> bool:
    """Return whether the run of a cell is done, with the data, the settings and the length that it should have."""
    return not why_open(cell)


def why_open(cell: Cell) -> str:
    """Return how far the run of a cell is, or in what the one there is not the one asked for; empty if it is done."""
    run = RunFolder(Path(cell.config.run_dir))
    try:
        status = run.status()
        if other := _other_training(run, cell):
            return other
        if status != "finished":
            return status or "not begun"
        run.check_same_settings(cell.config)
        other = _other_data(load_file(run.config_file), run.result(), cell)
    except (UsageError, DataError, OSError) as error:
        return sentence(error)
    return other and _remedied(run, f"finished with {other}")


def why_not_to_start(cell: Cell) -> str:
    """Return in what the run there was trained otherwise than a cell asks for; empty where it may begin or go on.

    Going on would make one training of two, which is neither. What else is in its way the run itself says.
    """
    try:
        return _other_training(RunFolder(Path(cell.config.run_dir)), cell)
    except (UsageError, DataError, OSError):
        return ""


def _other_training(run: RunFolder, cell: Cell) -> str:
    status = run.status()
    if status is None or not run.config_file.exists() or (status != "finished" and run.step() == 0):
        return ""
    other = _other_settings(load_file(run.config_file), cell.config)
    if status == "finished":
        other = other or _other_steps(run.result(), cell.config.train)
        return other and _remedied(run, f"finished with {other}")
    return other and _remedied(run, f"begun with {other}")


def _remedied(run: RunFolder, other: str) -> str:
    return f"{other}: remove {run.path}, or call it otherwise"


def _other_settings(was: Config, asked: Config) -> str:
    names = _LENGTH | _CHOICE_OF_BEST | _MICRO_BATCH
    if "stream" in (was.data.residency, asked.data.residency):
        names |= _STREAMED_DRAWS
    if asked.train.steps:
        names -= {"train.epochs"}
    if asked.train.eval_every_steps:
        names -= {"train.eval_every_epochs"}
    pairs = differences(was, asked)
    return ", ".join(f"{name} {old}, not {new}" for name, (old, new) in pairs.items() if name in names)


def _other_steps(result: dict[str, Any], asked: TrainConfig) -> str:
    """Compare what was done with what was asked for: config.yaml has what the last job was to do."""
    done, planned = result.get("steps"), result.get("planned_steps", asked.steps)  # older results do not tell it
    if not (done and planned) or done == planned:
        return ""
    ends_early = asked.patience_epochs or asked.max_minutes
    return "" if ends_early and done < planned else f"{done} steps, not {planned}"


def _other_data(was: Config, result: dict[str, Any], cell: Cell) -> str:
    if not result:
        return "no result.json"
    asked, digest = cell.config, result.get("dataset_digest")  # which older results do not have
    same_data = digest == cell.digest if digest and cell.digest else was.data.shards == asked.data.shards
    return "" if same_data else f"other data ({was.data.shards})"


def log_of(cell: Cell) -> Path:
    """Return the file that takes what a run prints; a run that goes on writes at its end."""
    folder = Path(cell.config.run_dir)
    return folder.with_name(f"{folder.name}.log")


def command_of(cell: Cell, train_script: Path) -> list[str]:
    """Return the command that runs a cell, or goes on with it."""
    return [sys.executable, str(train_script), *cell.words]


@dataclass
class _Running:
    cell: Cell
    slot: int
    process: "subprocess.Popen[bytes]"
    log_start: int
    started_s: float


def run_cells(cells: Sequence[Cell], train_script: Path, *, jobs: int, say: Say) -> dict[str, str]:
    """Run the cells, `jobs` of them side by side; returns why some of them failed, by name.

    What is in the way of one does not keep the others from running. When this is interrupted, the runs stop in good
    order; when it is killed, they are killed with it.
    """
    waiting, running, failed = list(reversed(cells)), list[_Running](), dict[str, str]()
    interrupted = _interruptions()

    def ended(cell: Cell, problem: str, result: str = "") -> None:
        if problem:
            failed[cell.name] = problem
        say(f"{len(cells) - len(waiting) - len(running)} of {len(cells)}  {cell.name}: {problem or result}")

    try:
        while waiting or running:
            for slot in sorted(set(range(jobs)) - {one.slot for one in running}):
                if waiting:
                    cell = waiting.pop()
                    try:
                        running.append(_start(cell, train_script, slot, jobs))
                    except OSError as error:
                        ended(cell, sentence(error))
            if interrupted:
                raise KeyboardInterrupt
            if running:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # until any of them ends
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                problem = _problem(one)
                ended(one.cell, problem, "" if problem else _result(one))
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()
    return failed


def _interruptions() -> list[int]:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt`, and return the signals that came.

    One may come where Python ignores what is raised, such as in what runs behind the start of a process.
    """
    interrupted = list[int]()

    def interrupt(number: int, _: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    return interrupted


def _start(cell: Cell, train_script: Path, slot: int, jobs: int) -> _Running:
    log = log_of(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command_of(cell, train_script),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_gpu_of(slot, jobs)},
            start_new_session=True,  # a Ctrl-C comes to this process, which passes it on once
            preexec_fn=_die_with_parent,
        )
        if cores := cores_of(slot, jobs, sorted(os.sched_getaffinity(0))):
            with contextlib.suppress(OSError):  # it has ended already
                os.sched_setaffinity(process.pid, cores)
        return _Running(cell, slot, process, file.tell(), time.monotonic())


def cores_of(slot: int, jobs: int, cores: Sequence[int]) -> list[int]:
    """Return the cores of one of `jobs` places: equal shares, or turns where there are more places than cores."""
    if jobs > len(cores):
        return [cores[slot % len(cores)]]
    return list(cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs])


def _gpu_of(slot: int, jobs: int) -> dict[str, str]:
    """Return the environment that shows a place one GPU, in turns, where there are several of both."""
    if jobs == 1 or torch.cuda.device_count() < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",")
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends: nobody would know of it, and it would lock its folder."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _problem(one: _Running) -> str:
    """Say why an ended process has not finished its run; nothing if it has."""
    code, state = one.process.returncode, why_open(one.cell)
    if code == 0:
        return "stopped; the same command goes on with it" if state == "stopped" else state
    said: list[str] = []
    with contextlib.suppress(OSError), log_of(one.cell).open("rb") as file:
        file.seek(one.log_start)
        said = file.read().decode(errors="replace").strip().splitlines()
    reason = said[-1].strip() if said else "it said nothing"
    return f"ended by signal {-code}" if code < 0 else f"{reason} (exit code {code}, see {log_of(one.cell)})"


def _result(one: _Running) -> str:
    result = RunFolder(Path(one.cell.config.run_dir)).result()
    figures = [f"{split} {result[split]['accuracy']:.4f}" for split in ("val", "test") if split in result]
    return ", ".join([*figures, f"{time.monotonic() - one.started_s:.0f} s"])
