"""The table of a sweep: mean, standard deviation and number of runs over the seeds, and how sure the mean is."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kws_dist.files import write_whole
from kws_dist.run import RunFolder
from kws_dist.sweep import Cell, Sweep
from kws_dist.sweep_jobs import is_finished, log_of, why_open

_WHOLE_TABLE_COLUMNS = 80  # of the terminal; in a narrower one the speed and the size are left out


@dataclass(frozen=True)
class Summary:
    """What several runs say of one figure."""

    n: int
    mean: float
    std: float | None
    """Of the sample, with n - 1 below the root; None for a single run, as the interval."""
    low: float | None
    high: float | None
    """Between `low` and `high` lies the mean of infinitely many runs, with 95 % confidence (Student's t)."""


@dataclass(frozen=True)
class Row:
    """What differs only in the seed."""

    name: str
    planned: int
    runs: tuple[str, ...]
    """Names of the finished ones."""
    val_accuracy: Summary | None
    test_accuracy: Summary | None
    train_clips_per_s: Summary | None
    parameters: int | None


def summarize(values: Sequence[float], *, least: float = -math.inf, most: float = math.inf) -> Summary | None:
    """Summarise the figures of several runs; None if there are none. The interval ends at `least` and `most`."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Summary(1, mean, None, None, None)
    std = statistics.stdev(values)
    half = student_t(len(values) - 1) * std / math.sqrt(len(values))
    return Summary(len(values), mean, std, max(mean - half, least), min(mean + half, most))


def student_t(degrees: int, confidence: float = 0.95) -> float:
    """Return the t between whose negative and itself lies `confidence` of Student's distribution.

    By bisection of its distribution function, which for whole degrees of freedom is a finite sum: Abramowitz and
    Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _between(high, degrees) < confidence:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _between(middle, degrees) < confidence else (low, middle)
    return high


def _between(t: float, degrees: int) -> float:
    """Return how much of Student's distribution lies between -t and t."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def make_rows(sweep: Sweep) -> list[Row]:
    """Read the results of all finished runs; a row for each name, in the order of the sweep."""
    return [_row(name, [cell for cell in sweep.cells if cell.row == name]) for name in _names(sweep)]


def _names(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(cell.row for cell in sweep.cells))


def _row(name: str, cells: Sequence[Cell]) -> Row:
    results = {cell.name: RunFolder(Path(cell.config.run_dir)).result() for cell in cells if is_finished(cell)}
    speeds = [result["train_clips_per_s"] for result in results.values()]
    sizes = {result["parameters"] for result in results.values()}
    return Row(
        name=name,
        planned=len(cells),
        runs=tuple(results),
        val_accuracy=_accuracy("val", results),
        test_accuracy=_accuracy("test", results),
        train_clips_per_s=summarize([speed for speed in speeds if speed], least=0.0),
        parameters=sizes.pop() if len(sizes) == 1 else None,
    )


def _accuracy(split: str, results: dict[str, dict[str, Any]]) -> Summary | None:
    values = [result[split]["accuracy"] for result in results.values() if split in result]
    return summarize(values, least=0.0, most=1.0)


def unfinished(sweep: Sweep, failed: dict[str, str]) -> dict[str, str]:
    """Return what is known of each run that is not finished: why it `failed`, or what its folder says."""
    open_cells = [cell for cell in sweep.cells if not is_finished(cell)]
    return {cell.name: failed.get(cell.name) or _state(cell) for cell in open_cells}


def _state(cell: Cell) -> str:
    log = log_of(cell)
    return why_open(cell) + (f", see {log}" if log.exists() else "")


def write_tables(folder: Path, rows: Sequence[Row], missing: dict[str, str]) -> None:
    """Write `table.json` and `table.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"rows": [asdict(row) for row in rows], "unfinished": missing}
    write_whole(folder / "table.json", (json.dumps(content, indent=1) + "\n").encode())
    write_whole(folder / "table.md", markdown(rows, missing).encode())


def markdown(rows: Sequence[Row], missing: dict[str, str]) -> str:
    """Return the table for a README."""
    lines = ["| run | n | val accuracy | 95 % of the mean | test accuracy | 95 % of the mean | clips/s | parameters |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        val, test = row.val_accuracy, row.test_accuracy
        cells = [row.name.replace("|", "\\|"), _count(row), _mean(val), _interval(val), _mean(test), _interval(test)]
        lines.append(f"| {' | '.join([*cells, _speed(row), _size(row)])} |")
    lines += ["", "Accuracy: mean ± standard deviation of n runs. 95 %: Student's t interval of the mean."]
    if missing:
        lines += ["", "Not finished:", "", *(f"- {name}: {why}" for name, why in missing.items())]
    return "\n".join(lines) + "\n"


def show(console: Console, rows: Sequence[Row], missing: dict[str, str]) -> None:
    """Print the table, and below it what is not in it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    headings = ("n", "val accuracy\n95 % of mean", "test accuracy\n95 % of mean", "clips/s", "parameters")
    fits = len(headings) if console.width >= _WHOLE_TABLE_COLUMNS else 3  # table.json has the rest
    table.add_column("run", overflow="fold", min_width=12)
    for heading in headings[:fits]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        accuracies = [f"{_mean(one)}\n{_interval(one)}".rstrip() for one in (row.val_accuracy, row.test_accuracy)]
        cells = (_count(row), *accuracies, _speed(row).replace(" ± ", "\n± "), _size(row))
        table.add_row(row.name, *cells[:fits])
    console.print(table)
    console.print("mean ± standard deviation of n runs (1/3: of 3 planned); 95 %: Student's t", style="dim")
    for name, why in missing.items():
        console.print(f"not finished: {name}: {why}", style="red", soft_wrap=True, markup=False)


def _count(row: Row) -> str:
    return str(row.planned) if len(row.runs) == row.planned else f"{len(row.runs)}/{row.planned}"


def _mean(figure: Summary | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.mean:.4f}" + ("" if figure.std is None else f" ± {figure.std:.4f}")


def _interval(figure: Summary | None) -> str:
    return "" if figure is None or figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"


def _speed(row: Row) -> str:
    speed = row.train_clips_per_s
    return "-" if speed is None else f"{speed.mean:,.0f}" + ("" if speed.std is None else f" ± {speed.std:,.0f}")


def _size(row: Row) -> str:
    return "-" if row.parameters is None else f"{row.parameters:,}"
