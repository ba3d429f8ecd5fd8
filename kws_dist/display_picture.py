"""The live part of the display, drawn anew a few times a second: two bars, the latest figures, and what a key does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

HIGH_DATA_WAIT = 0.2
"""From this share of the time on, waiting for data is worth a colour."""

HIGH_MEMORY = 0.9
"""From this share of the memory on, the next larger batch may not fit."""

_FIGURES = 8  # as many as `figures` returns
_FIGURE_COLUMNS = 19  # of the longest value, "119.9 of 139.8 GiB", and a gap
_TROUBLE = "bold yellow"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Figures of the steps since the last reading."""

    loss: float
    accuracy: float | None
    learning_rate: float
    gradient_norm: float
    """Of the last step."""
    skipped_steps: int
    """Of the whole run: steps whose loss or gradient was not finite."""
    clips_per_s: float
    data_wait_share: float
    """Share of the time in which the steps waited for data."""
    memory_bytes: int
    """Peak on the device."""
    memory_limit_bytes: int | None = None


@dataclass(frozen=True)
class Place:
    """Where in a run a step is; the last epoch may be shorter than the others."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """The epoch that the step belongs to, from 1 on."""
        return max(math.ceil(self.step / self.steps_per_epoch), 1)

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    @property
    def in_epoch(self) -> tuple[int, int]:
        """Steps taken in this epoch, and steps that it has."""
        before = (self.epoch - 1) * self.steps_per_epoch
        return self.step - before, min(self.steps_per_epoch, self.total_steps - before)

    @property
    def share(self) -> str:
        """How much of the run is done; 100 % only at its end."""
        return f"{math.floor(100 * self.step / self.total_steps)} %"


@dataclass(frozen=True)
class Figure:
    """One number with its name."""

    name: str
    value: str
    is_trouble: bool = False


def figures(reading: Reading) -> list[Figure]:
    """Return what a reading says, as it is shown."""
    limit = reading.memory_limit_bytes
    return [
        Figure("loss", f"{reading.loss:.4f}", not math.isfinite(reading.loss)),
        Figure("accuracy", fraction(reading.accuracy, 3)),
        Figure("learning rate", rate(reading.learning_rate)),
        Figure("gradient norm", f"{reading.gradient_norm:.3g}", not math.isfinite(reading.gradient_norm)),
        Figure("clips/s", f"{reading.clips_per_s:,.0f}"),
        Figure("data wait", f"{100 * reading.data_wait_share:.1f} %", reading.data_wait_share > HIGH_DATA_WAIT),
        Figure("peak memory", _memory(reading), bool(limit) and reading.memory_bytes > HIGH_MEMORY * limit),
        Figure("skipped steps", f"{reading.skipped_steps:,}", reading.skipped_steps > 0),
    ]


def picture(place: Place, eta: str, shown: Sequence[Figure] | str, hint: Text, *, columns: int) -> Group:
    """Return the live part; `shown` is the latest figures, or what goes on instead of steps.

    Its last line ends before the edge of the terminal, which writes `^C` there when Ctrl-C is pressed: in a full
    line that would begin a new one, and the next drawing would begin a line too low.
    """
    hint.truncate(max(columns - 4, 1), overflow="ellipsis")
    return Group("", _bars(place, eta), "", *_block(shown, columns), hint)


def _bars(place: Place, eta: str) -> Table:
    done, steps = place.in_epoch
    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(no_wrap=True, style="bold")
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True, justify="right")
    bars.add_column(no_wrap=True, min_width=len("eta 59 min 59 s"))
    bars.add_row(f"epoch {place.epoch}/{place.epochs}", _bar(done, steps), f"{done}/{steps}")
    bars.add_row(
        f"total {place.share}",
        _bar(place.step, place.total_steps),
        f"{place.step}/{place.total_steps}",
        Text(f"eta {eta}", style="bold"),
    )
    return bars


def _bar(done: int, steps: int) -> ProgressBar:
    return ProgressBar(total=steps, completed=done, complete_style="cyan", finished_style="cyan")


def _block(shown: Sequence[Figure] | str, columns: int) -> list[Text]:
    """Return names above values, as many beside each other as fit; whatever is shown takes the same lines."""
    beside = next((some for some in (_FIGURES, 4, 2) if some * _FIGURE_COLUMNS <= columns), 1)
    if isinstance(shown, str):
        return [Text(shown, style=_TROUBLE, no_wrap=True, overflow="ellipsis")] + [Text()] * (
            3 * _FIGURES // beside - 1
        )
    lines = []
    for first in range(0, _FIGURES, beside):
        names, values = Text(style="dim"), Text()
        for figure in shown[first : first + beside]:
            names.append(figure.name.ljust(_FIGURE_COLUMNS))
            values.append(figure.value.ljust(_FIGURE_COLUMNS), style=_TROUBLE if figure.is_trouble else "bold cyan")
        names.rstrip()
        values.rstrip()
        lines += [names, values, Text()]
    return lines


def _memory(reading: Reading) -> str:
    held = f"{reading.memory_bytes / 2**30:.1f}"
    limit = reading.memory_limit_bytes
    return f"{held} of {limit / 2**30:.1f} GiB" if limit else f"{held} GiB"


def rate(learning_rate: float) -> str:
    """Return a learning rate in three digits."""
    return f"{learning_rate:.3g}"


def fraction(value: float | None, digits: int) -> str:
    """Return a number that may not be known."""
    return "-" if value is None else f"{value:.{digits}f}"


def duration(time_s: float) -> str:
    """Return a time in the two units that matter: `42 s`, `3 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    seconds = round(time_s)
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {unit} {seconds % unit_s // part_s} {part}"
    return f"{seconds} s"
