"""Runs the cells of a sweep as an array of SLURM jobs."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kws_dist.errors import UsageError
from kws_dist.files import write_whole
from kws_dist.sweep import Cell, Sweep
from kws_dist.sweep_jobs import command_of, log_of


def copy_of(sweep: Sweep) -> Path:
    """Return the file from which tasks read their sweep: as it was when it was submitted, however it is edited since.

    Its name tells what it holds, so that submitting an edited sweep leaves it to the tasks that still wait.
    """
    return sweep.out / f"sweep-{hashlib.sha256(sweep.text.encode()).hexdigest()[:8]}.yaml"


def array_script(
    sweep: Sweep, indices: Sequence[int], again: Sequence[str], *, options: Sequence[str], jobs: int
) -> str:
    """Return a script for sbatch whose tasks run the cells of `indices`, at most `jobs` at a time (0: no limit).

    `again` is the command of the sweep, to which each task adds which cell it runs. Two minutes before the time is up
    a run is asked to stop in good order; submitting what is left goes on with it.
    """
    limit = f"%{jobs}" if jobs else ""
    words = [
        f"--job-name=sweep-{sweep.out.name}",
        f"--array={','.join(map(str, indices))}{limit}",
        f"--chdir={Path.cwd()}",
        f"--output={_for_output(sweep.out)}/slurm-%a.log",
        "--open-mode=append",
        "--signal=B:TERM@120",
    ]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {_quoted(word)}" for word in words),
        *([f"#SBATCH {' '.join(map(_quoted, options))}"] if options else []),
        *(f"# task {index}: {sweep.cells[index].name}" for index in indices),
        # exec: the signal goes to the process of this script, which is then the training itself
        f'exec {shlex.join(again)} --task_index "$SLURM_ARRAY_TASK_ID"',
    ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    """Return a word as sbatch reads it in a line of a script: it knows double quotes, and backslashes in them."""
    if re.fullmatch(r"[\w./=:,;%@+~-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _for_output(folder: Path) -> str:
    """Return a folder as sbatch takes it in the name of an output file, in which %a and the like have a meaning."""
    return str(folder).replace("%", "%%")


def submit(sweep: Sweep, script: str, again: Sequence[str]) -> str:
    """Write the sweep and its script, hand that to SLURM, and behind it a job for the table; returns what is said."""
    file = sweep.out / "sweep.sbatch"
    sweep.out.mkdir(parents=True, exist_ok=True)
    write_whole(copy_of(sweep), sweep.text.encode())
    write_whole(file, script.encode())
    if shutil.which("sbatch") is None:
        raise UsageError(f"--slurm: there is no sbatch here; submit {file}, which is written, where there is one")
    job = _sbatch(str(file))
    log = f"{_for_output(sweep.out)}/slurm-table.log"
    behind = [f"--dependency=afterany:{job}", f"--output={log}", f"--chdir={Path.cwd()}"]
    table = _sbatch(*behind, f"--wrap={shlex.join([*again, '--table_only'])}")
    return f"job {job} runs the sweep, job {table} makes the table when all of it has ended"


def _sbatch(*arguments: str) -> str:
    done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"--slurm: sbatch refused: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]


def become(cell: Cell, train_script: Path) -> NoReturn:
    """Turn this process into the training of a cell, which prints into its log; returns never."""
    log = log_of(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{cell.name}: see {log}", flush=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    command = command_of(cell, train_script)
    os.execv(command[0], command)
