"""Run one training for each seed, or each place of a grid, and compare them in one table.

    python tools/sweep.py configs/sweeps/seeds.yaml
    python tools/sweep.py configs/sweeps/seeds.yaml --slurm --sbatch_options="--time=2:00:00 --gpus=1"

What is finished is not run again, what was stopped goes on; what was trained with another length, or otherwise than the
file now asks for, is neither counted nor run. The table lies in the folder of the sweep as well, as table.json and
table.md, also after Ctrl-C. Exit code 1: some run is not finished, or not as asked; the table names it.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from kws_dist import sweep_array, sweep_jobs, sweep_table
from kws_dist.errors import UsageError, main_guard
from kws_dist.sweep import Cell, Sweep, read_sweep
from kws_dist.sweep_jobs import Say

_TRAIN = Path(__file__).parents[1] / "launch" / "train.py"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which sweep, and how it is run."""

    file: Annotated[Path, tyro.conf.Positional]
    """What to run, as YAML: see kws_dist/sweep.py, and configs/sweeps."""
    out: Path | None = None
    """Folder of the runs and the table, instead of the one in the file; else runs/sweeps/ and the name of the file."""
    jobs: int | None = None
    """Runs side by side, which share the cores and the GPUs (1); with --slurm, most tasks at a time (all)."""
    dry_run: bool = False
    """Check the settings of every run, print their commands, and run nothing."""
    table_only: bool = False
    """Make the table of what is finished, and run nothing."""
    slurm: bool = False
    """Submit the runs that are not finished as one SLURM array, and behind it the table."""
    sbatch_options: str = ""
    """With --slurm: what each run needs, such as --sbatch_options="--partition=gpu --gpus=1 --time=2:00:00"."""
    task_index: int | None = None
    """Become the run of this number, counted from 0: what a task of the array does."""
    debug: bool = False
    """Show the traceback of an error."""


def sweep(arguments: Arguments) -> int:
    """Do what the arguments ask for; returns the exit code."""
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs {arguments.jobs} should be 1 or more")
    plan, console = read_sweep(arguments.file, arguments.out), Console(highlight=False)
    say = partial(console.print, soft_wrap=True, markup=False)
    if arguments.task_index is not None:
        if not 0 <= arguments.task_index < len(plan.cells):
            raise UsageError(f"--task_index {arguments.task_index} should be from 0 to {len(plan.cells) - 1}")
        return _task(plan.cells[arguments.task_index], say)
    todo = [cell for cell in plan.cells if not sweep_jobs.is_finished(cell)]
    refused = {cell.name: why for cell in todo if (why := sweep_jobs.why_not_to_start(cell))}
    say(f"{len(plan.cells)} runs in {plan.out}, {len(plan.cells) - len(todo)} of them finished")
    todo = [cell for cell in todo if cell.name not in refused]
    for name, why in refused.items():
        say(f"not run: {name}: {why}")
    if arguments.slurm and todo and not arguments.table_only:
        _to_slurm(arguments, plan, todo, say)
    elif arguments.dry_run:
        for cell in todo:
            say(f"{cell.name}: {shlex.join(sweep_jobs.command_of(cell, _TRAIN))}")
    elif arguments.table_only:
        return _finish(plan, console, {})
    else:
        return _run(plan, todo, console, arguments.jobs or 1, say)
    return 1 if refused else 0


def _task(cell: Cell, say: Say) -> int:
    why = sweep_jobs.why_not_to_start(cell)
    if not why:
        sweep_array.become(cell, _TRAIN)
    say(f"not run: {cell.name}: {why}")
    return 1


def _run(plan: Sweep, todo: Sequence[Cell], console: Console, jobs: int, say: Say) -> int:
    try:
        failed = sweep_jobs.run_cells(todo, _TRAIN, jobs=jobs, say=say)
    except KeyboardInterrupt:
        _finish(plan, console, {})
        raise
    return _finish(plan, console, failed)


def _finish(plan: Sweep, console: Console, failed: dict[str, str]) -> int:
    rows, missing = sweep_table.make_rows(plan), sweep_table.unfinished(plan, failed)
    sweep_table.write_tables(plan.out, rows, missing)
    sweep_table.show(console, rows, missing)
    return 1 if missing else 0


def _to_slurm(arguments: Arguments, plan: Sweep, todo: Sequence[Cell], say: Say) -> None:
    again = [sys.executable, str(Path(__file__)), str(sweep_array.copy_of(plan)), "--out", str(plan.out)]
    indices = [index for index, cell in enumerate(plan.cells) if cell in todo]
    options = shlex.split(arguments.sbatch_options)
    text = sweep_array.array_script(plan, indices, again, options=options, jobs=arguments.jobs or 0)
    say(text if arguments.dry_run else sweep_array.submit(plan, text, again))


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True, config=(tyro.conf.FlagCreatePairsOff,))
    raise SystemExit(main_guard(lambda: sweep(arguments), debug=arguments.debug))
