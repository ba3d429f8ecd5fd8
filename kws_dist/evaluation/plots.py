"""The pictures of a run folder: `results.png`, the learning curves, and `confusion.png`."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from kws_dist.files import write_whole

Records = Sequence[Mapping[str, Any]]

DPI = 130
TRAIN_COLOUR = "#4477aa"  # the two stay apart for colour-blind eyes and in grey print
VAL_COLOUR = "#cc5522"
QUIET_COLOUR = "#777777"

PERCENT = PercentFormatter(xmax=1, decimals=0, symbol=" %")
THOUSANDS = StrMethodFormatter("{x:,.0f}")

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
    accuracy.yaxis.set_major_formatter(PERCENT)
    speed.yaxis.set_major_locator(MaxNLocator(integer=True))
    speed.yaxis.set_major_formatter(THOUSANDS)
    _mark_best(accuracy, records)
    for axes, title in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate"), (speed, "clips per second")):
        _finish_panel(axes, title)
    accuracy.set_ylim(0, 1.02)
    for axes in (loss, rate, speed):
        axes.set_ylim(bottom=0)
    for axes in (rate, speed):
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
    _save(figure, path)


def confusion(matrix: NDArray[np.integer], words: Sequence[str], path: Path) -> None:
    """Draw the counts `(C, C)` of answers, one row for each true word, coloured by the share of the row."""
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)
    side_in = CELL_IN * len(words) * 1.3 + 1  # the axes take three quarters of it
    figure = Figure(figsize=(side_in + 0.8, side_in))
    axes = figure.subplots()
    # A square root shows confusions of a few per cent, which a straight scale would leave white.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    colours = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.03, format=PERCENT, ticks=[0, 0.05, 0.25, 0.5, 1])
    colours.set_label("share of the true word")
    colours.ax.tick_params(labelsize=8)
    words = [word.replace("$", r"\$") for word in words]  # which would be read as a formula
    axes.set_xticks(range(len(words)), words, rotation=90)
    recalls = [
        f"{100 * recall:.0f} %" if total else "-" for recall, total in zip(share.diagonal(), totals, strict=True)
    ]
    axes.set_yticks(range(len(words)), [f"{word}  {recall}" for word, recall in zip(words, recalls, strict=True)])
    axes.set_xlabel("answer")
    axes.set_ylabel("true word, recall")
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
    """Put a star where the validation accuracy was best, and the number in the legend."""
    scored = [record for record in records if record.get("val/accuracy") is not None]
    if scored:
        # Where the accuracy ties, the lower loss is the better one, as for the checkpoint that is kept.
        best = max(scored, key=lambda record: (record["val/accuracy"], -(record.get("val/loss") or 0.0)))
        star = {"marker": "*", "markersize": 11, "color": VAL_COLOUR, "linestyle": ""}
        axes.plot(best["step"], best["val/accuracy"], label=f"best {100 * best['val/accuracy']:.2f} %", **star)


def _finish_panel(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(THOUSANDS)
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
            fontsize=6 if len(matrix) > 15 else 8,
            color="white" if share[row, column] > 0.4 else "black",
            in_layout=False,  # it is inside of its cell, and measuring a thousand texts takes seconds
        )


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(picture, dpi=DPI, format="png", bbox_inches="tight", pad_inches=0.15)
    write_whole(path, picture.getvalue())
