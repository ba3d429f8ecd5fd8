"""A page of small pictures of a dataset: how many clips, how long, how loud, and a clip of each word."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from kws_dist.files import write_whole
from kws_dist.frontend.features import LogMel

_DPI = 110
_WIDTH_IN = 13.0
_PICTURES_A_ROW = 7
_PICTURE_HEIGHT_IN = 1.55
_FEWEST_PLACES = 8  # for words side by side, so that the bars of two are no walls
_COLOURS = {"train": "#4477aa", "val": "#ddaa33", "test": "#cc5522"}
_QUIET_COLOUR = "#777777"
_FULL_SCALE = 32_768.0
_SHORTEST_SAMPLES = 512  # of which a spectrogram can be made


@dataclass(frozen=True, kw_only=True)
class ClipPage:
    """What is to be shown."""

    title: str
    sample_rate_hz: int
    counts: Mapping[str, Mapping[str, int]]
    """Clips by split, by word; the words in the order of the page."""
    lengths_s: NDArray[np.floating]
    """Of all clips."""
    levels_dbfs: Mapping[str, NDArray[np.floating]]
    """Of all clips, by word."""
    pictured: Mapping[str, tuple[str, NDArray[np.int16]]]
    """By word, the key of a clip and its samples `(samples,)`."""


def draw_clip_page(page: ClipPage, path: Path) -> None:
    """Write the page as a PNG."""
    rows = max(-(-len(page.pictured) // _PICTURES_A_ROW), 1)
    columns = -(-len(page.pictured) // rows)
    heights = [2.6, 2.6, _PICTURE_HEIGHT_IN * rows]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights) + 1), layout="constrained")
    figure.suptitle(_plain(page.title), x=0.01, ha="left", fontsize=13)
    grid = figure.add_gridspec(3, 1, height_ratios=heights)
    top = grid[0].subgridspec(1, 2, width_ratios=(2, 1))
    _draw_counts(figure.add_subplot(top[0]), page.counts)
    _draw_lengths(figure.add_subplot(top[1]), page.lengths_s)
    _draw_levels(figure.add_subplot(grid[1]), page.levels_dbfs)
    bottom = grid[2].subgridspec(rows, max(columns, _PICTURES_A_ROW - 2))
    longest_s = max((len(samples) for _, samples in page.pictured.values()), default=0) / page.sample_rate_hz
    for number, (word, (key, samples)) in enumerate(page.pictured.items()):
        axes = figure.add_subplot(bottom[divmod(number, columns)])
        _draw_log_mel(axes, samples, page.sample_rate_hz)
        axes.set_xlim(0, longest_s)
        axes.set_title(_plain(word), loc="left", fontsize=10, pad=3)
        axes.set_xlabel(
            _plain(key if len(key) < 30 else f"...{key[-27:]}"), loc="left", fontsize=6, color=_QUIET_COLOUR
        )
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(picture, dpi=_DPI, format="png")
    write_whole(path, picture.getvalue())


def _draw_counts(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    words = list(next(iter(counts.values())))
    below = np.zeros(len(words))
    for split, per_word in counts.items():
        clips = np.array([per_word[word] for word in words])
        axes.bar(range(len(words)), clips, bottom=below, color=_COLOURS[split], label=split, width=0.75)
        below += clips
    _name_words(axes, words)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _finish(axes, "clips per word")


def _draw_lengths(axes: Axes, lengths_s: NDArray[np.floating]) -> None:
    axes.hist(lengths_s, bins=np.linspace(0, lengths_s.max(), 41).tolist(), color=_QUIET_COLOUR)
    axes.set_yscale("log")  # as a rule nearly all are as long as they may be
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    _finish(axes, "clips per length in seconds")


def _draw_levels(axes: Axes, levels_dbfs: Mapping[str, NDArray[np.floating]]) -> None:
    axes.boxplot(
        list(levels_dbfs.values()),
        positions=range(len(levels_dbfs)),
        whis=(5, 95),
        widths=0.6,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": _QUIET_COLOUR},
        medianprops={"color": "black"},
        boxprops={"facecolor": "#cfdcea"},
        patch_artist=True,
    )
    _name_words(axes, list(levels_dbfs))
    _finish(axes, "loudness in dBFS: the middle half of the clips, and 5 % to 95 %")


def _draw_log_mel(axes: Axes, samples: NDArray[np.int16], sample_rate_hz: int) -> None:
    samples = np.pad(samples, (0, max(_SHORTEST_SAMPLES - len(samples), 0)))
    wave = torch.from_numpy(samples.astype(np.float32) / _FULL_SCALE)
    picture = LogMel(sample_rate_hz=sample_rate_hz)(wave[None])[0, 0].numpy()
    darkest = np.percentile(picture, 10)  # where a clip is silent the logarithm would leave no colours for the rest
    extent = (0, len(wave) / sample_rate_hz, 0, 1)
    axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=darkest, extent=extent)
    axes.set_yticks([])
    axes.tick_params(labelsize=7, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=2))


def _name_words(axes: Axes, words: Sequence[str]) -> None:
    upright = len(words) > 15 or max(map(len, words)) > 10
    axes.set_xticks(range(len(words)), [_plain(word) for word in words], rotation=90 if upright else 0)
    axes.set_xlim(-0.6, max(len(words), _FEWEST_PLACES) - 0.4)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # which would be read as a formula
