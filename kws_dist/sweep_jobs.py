"""Runs the cells of a sweep: here, some side by side, or as an array of SLURM jobs."""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kws_dist.config import load_file
from kws_dist.errors import UsageError
from kws_dist.files import write_whole
from kws_dist.run import RunFolder
from kws_dist.sweep import Cell, Sweep

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h

Say = Callable[[str], None]


def is_finished(cell: Cell) -> bool:
    """Return whether the run of a cell is done, with the settings and as many epochs as it should have."""
    run = RunFolder(Path(cell.config.run_dir))
    if run.status() != "finished" or not run.config_file.exists():
        return False
    try:
        run.check_same_settings(cell.config)
    except UsageError:
        return False
    return load_file(run.config_file).train.epochs == cell.config.train.epochs


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
    try:
        while waiting or running:
            for slot in sorted(set(range(jobs)) - {one.slot for one in running}):
                if waiting:
                    running.append(_start(waiting.pop(), train_script, slot, jobs))
            if interrupted:
                raise KeyboardInterrupt
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # until any of them ends
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                done = f"{len(cells) - len(waiting) - len(running)} of {len(cells)}"
                if problem := _problem(one):
                    failed[one.cell.name] = problem
                say(f"{done}  {one.cell.name}: {problem or _result(one)}")
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
            with contextlib.suppress(ProcessLookupError):  # it has ended already
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
    code = one.process.returncode
    if code == 0:
        run = RunFolder(Path(one.cell.config.run_dir))
        return "" if run.status() == "finished" else f"{run.status()}; the same command goes on with it"
    with log_of(one.cell).open("rb") as file:
        file.seek(one.log_start)
        said = file.read().decode(errors="replace").strip().splitlines()
    reason = said[-1].strip() if said else "it said nothing"
    return f"ended by signal {-code}" if code < 0 else f"{reason} (exit code {code}, see {log_of(one.cell)})"


def _result(one: _Running) -> str:
    result = RunFolder(Path(one.cell.config.run_dir)).result()
    figures = [f"{split} {result[split]['accuracy']:.4f}" for split in ("val", "test") if split in result]
    return ", ".join([*figures, f"{time.monotonic() - one.started_s:.0f} s"])


def array_script(
    sweep: Sweep, indices: Sequence[int], again: Sequence[str], *, options: Sequence[str], jobs: int
) -> str:
    """Return a script for sbatch whose tasks run the cells of `indices`, at most `jobs` at a time (0: no limit).

    `again` is the command of the sweep, to which each task adds which cell it runs. Two minutes before the time is up
    a run is asked to stop in good order; submitting what is left goes on with it.
    """
    limit = f"%{jobs}" if jobs else ""
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=sweep-{sweep.out.name}",
        f"#SBATCH --array={','.join(map(str, indices))}{limit}",
        f"#SBATCH --chdir={Path.cwd()}",
        f"#SBATCH --output={sweep.out}/slurm-%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:TERM@120",
        *(f"#SBATCH {option}" for option in options),
        *(f"# task {index}: {sweep.cells[index].name}" for index in indices),
        # exec: the signal goes to the process of this script, which is then the training itself
        f'exec {shlex.join(again)} --task_index "$SLURM_ARRAY_TASK_ID"',
    ]
    return "\n".join(lines) + "\n"


def submit(script: Path, text: str, again: Sequence[str]) -> str:
    """Write the script and hand it to SLURM, and behind it a job that makes the table; returns what sbatch said."""
    script.parent.mkdir(parents=True, exist_ok=True)
    write_whole(script, text.encode())
    if shutil.which("sbatch") is None:
        raise UsageError(f"--slurm: there is no sbatch here; submit {script}, which is written, where there is one")
    job = _sbatch(str(script))
    behind = [f"--dependency=afterany:{job}", f"--output={script.parent}/slurm-table.log", f"--chdir={Path.cwd()}"]
    table = _sbatch(*behind, f"--wrap={shlex.join([*again, '--table_only'])}")
    return f"job {job} runs the sweep, job {table} makes the table when all of it has ended"


def _sbatch(*arguments: str) -> str:
    done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"--slurm: sbatch refused: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]


def become(cell: Cell, train_script: Path) -> None:
    """Turn this process into the training of a cell, which prints into its log; returns never."""
    log = log_of(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{cell.name}: see {log}", flush=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    command = command_of(cell, train_script)
    os.execv(command[0], command)
