"""Runs the cells of a sweep as an array of SLURM jobs."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kws_dist.errors import UsageError
from kws_dist.files import write_whole
from kws_dist.sweep import Cell, Sweep
from kws_dist.sweep_jobs import command_of, log_of


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
