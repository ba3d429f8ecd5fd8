"""What a person watches: two bars and a line of numbers on a terminal, plain lines anywhere else.

Only rank 0 shows anything; the other ranks get `silent()`, so that nobody has to ask who is who.
"""

import io
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

RECENT_UPDATES = 50
"""How many updates the estimate of the time left looks back on."""

REDRAW_INTERVAL_S = 0.1
"""Redrawing more often than the eye follows only costs time."""

HIGH_DATA_WAIT = 0.2
"""From this share of the time on, waiting for data is worth a colour."""

EPOCH_HEADER = f"{'epoch':>5}  {'train loss':>10}  {'val loss':>8}  {'val acc':>7}  {'best':4}  {'lr':>8}  {'time':>11}"


class Display:
    """The running picture of one training; use it as a context manager, which gives the terminal back."""

    def __init__(
        self,
        console: Console,
        *,
        total_steps: int,
        steps_per_epoch: int,
        start_step: int,
        heartbeat_s: float = 30.0,
    ) -> None:
        self._console = console
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._total_epochs = math.ceil(total_steps / steps_per_epoch)
        self._heartbeat_s = heartbeat_s
        self._step = start_step
        self._numbers = Text()
        self._updated_s: float | None = None
        self._shown_s = -math.inf
        self._step_times_s: deque[float] = deque(maxlen=RECENT_UPDATES)
        self._has_epoch_header = False
        # With FORCE_COLOR set, rich takes a log file for a terminal: colours may be wanted there, bars never.
        on_terminal = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True) if on_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_live()

    def startup(self, rows: Mapping[str, str], changed: Mapping[str, str], words: Sequence[str] = ()) -> None:
        """Show what is about to run, and the settings (by flag) that differ from the defaults."""
        self._show_rows({**rows, "words": f"{len(words)}: {' '.join(words)}"} if words else rows)
        if changed:
            self._say("\nchanged from the defaults", style="bold")
            self._show_rows({f"  {name}": value for name, value in changed.items()})
        self._say("")

    def update(
        self,
        step: int,
        *,
        epoch: int,
        loss: float,
        accuracy: float | None,
        learning_rate: float,
        clips_per_s: float,
        data_wait_share: float,
        heartbeat: bool = False,
    ) -> None:
        """Show the numbers after `step` steps; off a terminal only every `heartbeat_s`, or when told to."""
        now_s = time.monotonic()
        if self._updated_s is not None and step > self._step:
            self._step_times_s.append((now_s - self._updated_s) / (step - self._step))
        self._step, self._updated_s = step, now_s
        if now_s - self._shown_s < (REDRAW_INTERVAL_S if self._live else self._heartbeat_s) and not heartbeat:
            return
        self._shown_s = now_s
        self._numbers = Text.assemble(
            f"loss {loss:.4f}  acc {_fraction(accuracy, 3)}  lr {_rate(learning_rate)}  {clips_per_s:.0f} clips/s  ",
            (f"data wait {100 * data_wait_share:.1f} %", "yellow" if data_wait_share > HIGH_DATA_WAIT else ""),
        )
        if self._live:
            self._live.start()
            self._live.update(self._picture(epoch), refresh=True)
        else:
            share = f"{100 * step / self._total_steps:.0f} %"
            self._say(
                f"step {step}/{self._total_steps} ({share})  epoch {epoch}/{self._total_epochs}  "
                f"{self._numbers.plain}  eta {self._eta()}"
            )

    def epoch_row(
        self,
        epoch: int,
        *,
        train_loss: float,
        val_loss: float | None,
        val_accuracy: float | None,
        test_accuracy: float | None = None,
        is_best: bool,
        learning_rate: float,
        time_s: float,
    ) -> None:
        """Print the line of a finished epoch, which stays."""
        tested = "" if test_accuracy is None else f"  {_fraction(test_accuracy, 4):>8}"
        if not self._has_epoch_header:
            self._say(EPOCH_HEADER + (f"  {'test acc':>8}" if tested else ""), style="bold")
            self._has_epoch_header = True
        self._say(
            f"{epoch:>5}  {train_loss:>10.4f}  {_fraction(val_loss, 4):>8}  {_fraction(val_accuracy, 4):>7}  "
            f"{'*' if is_best else '':4}  {_rate(learning_rate):>8}  {duration(time_s):>11}{tested}",
            style="green" if is_best else "",
        )

    def note(self, text: str) -> None:
        """Say something above the bars."""
        self._say(text, fold=True)

    def warn(self, text: str) -> None:
        """Say something that the user should act on."""
        self._say(f"warning: {text}", style="yellow", fold=True)

    def finish(self, rows: Mapping[str, str], next_commands: Sequence[str]) -> None:
        """Take the bars away and show the results and what can be done with them."""
        self._stop_live()
        self._say("")
        self._show_rows(rows)
        if next_commands:
            self._say("\nnext", style="bold")
            for command in next_commands:
                self._say(f"  {command}")

    def _picture(self, epoch: int) -> Table:
        """Return the live part: a bar for the epoch, a bar for the whole, and the numbers."""
        in_epoch = self._step - (epoch - 1) * self._steps_per_epoch
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        bars.add_column(no_wrap=True, min_width=len("eta 59 min 59 s"))
        bars.add_row(
            f"epoch {epoch}/{self._total_epochs}",
            ProgressBar(total=self._steps_per_epoch, completed=in_epoch, complete_style="cyan"),
            f"{in_epoch}/{self._steps_per_epoch}",
        )
        bars.add_row(
            "total",
            ProgressBar(total=self._total_steps, completed=self._step, complete_style="cyan"),
            f"{self._step}/{self._total_steps}",
            f"eta {self._eta()}",
        )
        picture = Table.grid(expand=True)
        picture.add_column(no_wrap=True, overflow="ellipsis")
        picture.add_row(bars)
        picture.add_row(self._numbers)
        return picture

    def _eta(self) -> str:
        """The median forgives the updates that held a validation, a checkpoint or a slow disk."""
        if not self._step_times_s:
            return "?"
        return duration(statistics.median(self._step_times_s) * (self._total_steps - self._step))

    def _show_rows(self, rows: Mapping[str, str]) -> None:
        """Print names and values in two columns; only a terminal has a width to fold long values to."""
        width = max(map(len, rows), default=0)
        if not self._live:
            for name, value in rows.items():
                self._say(f"{name:<{width}}  {value}")
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, Text(value))
        self._console.print(table)

    def _say(self, text: str, style: str = "", *, fold: bool = False) -> None:
        """Print a line without looking for markup in it: whole, for copy and paste and for grep, unless it is
        prose, which a terminal folds between words.
        """
        self._console.print(Text(text, style=style), soft_wrap=not (fold and self._live))

    def _stop_live(self) -> None:
        if self._live:
            self._live.stop()


def silent() -> Display:
    """Return a display that shows nothing, for every rank but the first."""
    nowhere = Console(file=io.StringIO(), quiet=True)
    return Display(nowhere, total_steps=1, steps_per_epoch=1, start_step=0, heartbeat_s=math.inf)


def duration(time_s: float) -> str:
    """Return a time in the two units that matter: `42 s`, `3 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    seconds = round(time_s)
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {unit} {seconds % unit_s // part_s} {part}"
    return f"{seconds} s"


def _rate(learning_rate: float) -> str:
    return f"{learning_rate:.3g}"


def _fraction(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
