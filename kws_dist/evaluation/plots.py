"""The pictures of a run folder: `results.png`, the learning curves, and `confusion.png`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

Records = Sequence[Mapping[str, Any]]

DPI = 130
TRAIN_COLOUR = "#4477aa"  # the two stay apart for colour-blind eyes and in grey print
VAL_COLOUR = "#cc5522"
QUIET_COLOUR = "#777777"

CELL_IN = 0.3
MOST_WORDS_WITH_COUNTS = 40


def learning_curves(records: Records, path: Path) -> None:
    """Draw loss, accuracy, learning rate and throughput over the steps from the records of `metrics.jsonl`."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    (loss, accuracy), (rate, speed) = figure.subplots(2, 2, sharex=True)
    _curve(loss, records, "train/loss", TRAIN_COLOUR, "train")
    _curve(loss, records, "val/loss", VAL_COLOUR, "validation")
    _curve(accuracy, records, "train/accuracy", TRAIN_COLOUR, "train")
    _curve(accuracy, records, "val/accuracy", VAL_COLOUR, "validation")
    _curve(rate, records, "train/learning_rate", TRAIN_COLOUR)
    _curve(speed, records, "perf/clips_per_s", TRAIN_COLOUR)
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _mark_best(accuracy, records)
    for axes, title in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate"), (speed, "clips per second")):
        _finish_panel(axes, title)
    for axes in (rate, speed):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
    _save(figure, path)


def confusion(matrix: NDArray[np.integer], words: Sequence[str], path: Path) -> None:
    """Draw the counts `(C, C)` of answers, one row for each true word, coloured by the share of the row."""
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)
    side_in = CELL_IN * len(words) + 2.2
    figure = Figure(figsize=(side_in + 0.8, side_in), layout="constrained")
    axes = figure.subplots()
    # A square root shows confusions of a few per cent, which a straight scale would leave white.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    colours = figure.colorbar(
        image, ax=axes, shrink=0.8, format=PercentFormatter(xmax=1), ticks=[0, 0.05, 0.25, 0.5, 1]
    )
    colours.set_label("share of the true word")
    axes.set_xticks(range(len(words)), words, rotation=90)
    right = [f"{word}  {recall:.0%}" for word, recall in zip(words, share.diagonal(), strict=True)]
    axes.set_yticks(range(len(words)), right)
    axes.set_xlabel("answer")
    axes.set_ylabel("true word, and how often it is recognised")
    axes.tick_params(length=0, labelsize=8)
    if len(words) <= MOST_WORDS_WITH_COUNTS:
        _write_counts(axes, matrix, share)
    _save(figure, path)


def _curve(axes: Axes, records: Records, key: str, colour: str, label: str = "") -> None:
    points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        # A single point, like the first validation, would be an invisible line.
        axes.plot(
            steps,
            values,
            color=colour,
            label=label,
            linewidth=1.5,
            marker="o" if len(points) < 40 else "",
            markersize=3,
        )


def _mark_best(axes: Axes, records: Records) -> None:
    """Write the best validation accuracy on the point where it was reached."""
    scored = [record for record in records if record.get("val/accuracy") is not None]
    if scored:
        best = max(scored, key=lambda record: record["val/accuracy"])
        axes.plot(best["step"], best["val/accuracy"], marker="*", markersize=11, color=VAL_COLOUR)
        axes.annotate(
            f"best {best['val/accuracy']:.2%}",
            (best["step"], best["val/accuracy"]),
            xytext=(0, -16),
            textcoords="offset points",
            ha="center",
            color=VAL_COLOUR,
        )


def _finish_panel(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center", color=QUIET_COLOUR)
    elif axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)


def _write_counts(axes: Axes, matrix: NDArray[np.integer], share: NDArray[np.floating]) -> None:
    for row, column in np.argwhere(matrix):
        axes.text(
            column,
            row,
            str(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=6,
            color="white" if share[row, column] > 0.4 else "black",
        )


def _save(figure: Figure, path: Path) -> None:
    """Write the picture in one move, so that a reader never sees half of one."""
    new = path.with_name(path.name + ".tmp")
    with new.open("wb") as file:
        FigureCanvasAgg(figure).print_figure(file, dpi=DPI, format="png")
    new.replace(path)
