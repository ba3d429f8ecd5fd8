"""The checkpoints that a run has, whole or not; what `tools/runs.py verify` and `prune` show."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kws_dist.errors import UsageError
from kws_dist.run import RunFolder
from kws_dist.training import checkpoint

_FEWEST = 2


@dataclass(frozen=True)
class Kept:
    """One checkpoint folder."""

    path: Path
    step: int | None
    """None if that cannot be read."""
    size_bytes: int
    problem: str
    """What is wrong with it; "" if every file has the size and the SHA-256 that the manifest says."""


def run_at(path: Path) -> RunFolder:
    """Return the run of a folder; `UsageError` if it has no checkpoints."""
    run = RunFolder(path)
    if not run.checkpoints.is_dir():
        raise UsageError(f"{path} holds no checkpoints: give the folder of a run, such as runs/bcresnet1")
    return run


def inventory(run: RunFolder) -> list[Kept]:
    """Read and check every checkpoint of a run, the best one first, the newest last."""
    best = checkpoint.best_path(run.checkpoints)
    paths = [*([best] if best.exists() else []), *checkpoint.step_folders(run.checkpoints)]
    return [Kept(path, _step(path), _size_bytes(path), checkpoint.problem(path)) for path in paths]


def prune(run: RunFolder, keep: int) -> list[Path]:
    """Remove all but the newest `keep` whole step checkpoints, and what crashed saves left; return what was removed.

    Damaged ones go only where two whole ones stay. No job may be writing to the run meanwhile: `UsageError`.
    """
    if keep < _FEWEST:
        raise UsageError(f"--keep {keep} should be {_FEWEST} or more: the newest one may be damaged one day")
    with run.open():
        before = set(run.checkpoints.iterdir())
        checkpoint.tidy(run.checkpoints)
        checkpoint.prune(run.checkpoints, keep)
        wrong = [path for path in checkpoint.step_folders(run.checkpoints) if checkpoint.problem(path)]
        if len(checkpoint.step_folders(run.checkpoints)) - len(wrong) >= _FEWEST:
            for path in wrong:
                shutil.rmtree(path)
        return sorted(before - set(run.checkpoints.iterdir()))


def show(kept: list[Kept], console: Console) -> None:
    """Print the checkpoints as a table, and what is wrong with any of them."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("checkpoint", "step", "MB", "state"):
        table.add_column(name, justify="right" if name in ("step", "MB") else "left")
    for one in kept:
        step = "?" if one.step is None else f"{one.step:,}"
        table.add_row(one.path.name, step, f"{one.size_bytes / 1e6:.1f}", "damaged" if one.problem else "whole")
    console.print(table)
    for one in kept:
        if one.problem:
            console.print(f"{one.path.name}: {one.problem}", style="red", soft_wrap=True, markup=False, highlight=False)


def _step(path: Path) -> int | None:
    try:
        step = json.loads((path / checkpoint.STATE).read_bytes())["step"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def _size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
