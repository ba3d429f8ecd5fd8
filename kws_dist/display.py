"""What a person watches: bars and figures on a terminal, plain lines anywhere else.

Only rank 0 shows anything; the other ranks get `silent()`, so that nobody has to ask who is who.
"""

import io
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kws_dist.display_clock import Clock
from kws_dist.display_picture import Place, Reading, duration, figures, picture
from kws_dist.display_table import EpochTable, Row

__all__ = ["Display", "Reading", "duration", "silent"]

REDRAWS_PER_S = 4.0
"""Drawing more often than the eye follows only costs time."""

STOPPING = "stopping after this step and saving"
_AGAIN = "; Ctrl-C again leaves at once"
_HINT = "Ctrl-C finishes the step and saves"


@dataclass(frozen=True)
class _Now:
    """What the bars and figures are drawn from."""

    place: Place
    eta: str
    reading: Reading | None = None
    busy: str = ""
    busy_since_s: float = 0.0


class Terminal(Console):
    """A console whose reader may go, as `| tee` may, or whose disk may be full: training goes on without it."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, if that can be done."""
        with suppress(OSError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Be quiet from now on, where rich would end the process."""
        self.quiet = True


class Display:
    """The running picture of one training; use it as a context manager, which gives the terminal back.

    On a terminal a thread draws what the methods below take down, so none of them makes a step wait, and what is on
    the screen is never older than a quarter of a second.
    """

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
        self._clock, self._is_stopping = Clock(start_step), False
        self._now = _Now(Place(start_step, total_steps, steps_per_epoch), eta="?")
        self._heartbeat_s, self._beaten_s = heartbeat_s, -math.inf
        # With FORCE_COLOR set, rich takes a log file for a terminal: colours may be wanted there, bars never.
        self._on_terminal = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
        self._live = None
        if self._on_terminal:
            self._live = Live(
                console=console, get_renderable=self._picture, refresh_per_second=REDRAWS_PER_S, transient=True
            )
        self._table = EpochTable(console.width if self._on_terminal else None)
        self.is_disturbed = False
        """Another program has written over the bars, so lines take their place."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away, for good."""
        if self._live:
            self._live.stop()

    def startup(self, rows: Mapping[str, str], changed: Mapping[str, str], words: Sequence[str] = ()) -> None:
        """Show what is about to run, and the settings (by flag) that differ from the defaults."""
        self._show_rows({**rows, "words": f"{len(words)}: {' '.join(words)}"} if words else rows)
        if changed:
            self._say("\nchanged from the defaults", style="bold")
            self._show_rows({f"  {name}": value for name, value in changed.items()})
        self._say("")

    def update(self, step: int, reading: Reading, *, heartbeat: bool = False) -> None:
        """Show the figures after `step` steps; off a terminal only every `heartbeat_s`, or when told to."""
        now_s = time.monotonic()
        self._clock.tick(step, now_s)
        place = replace(self._now.place, step=step)
        eta = self._clock.left(place.total_steps)
        self._now = _Now(place, eta, reading)
        if self._live:
            self._live.start()
        elif heartbeat or now_s - self._beaten_s >= self._heartbeat_s:
            self._beaten_s = now_s
            numbers = "  ".join(f"{one.name} {one.value}" for one in figures(reading))
            self._say(
                f"step {step}/{place.total_steps} ({place.share})  epoch {place.epoch}/{place.epochs}  {numbers}"
                f"  eta {eta}"
            )

    def busy(self, what: str) -> None:
        """Show what goes on instead of steps, until the next update."""
        self._now = replace(self._now, busy=what, busy_since_s=time.monotonic())
        if self._live:
            self._live.start()

    def validated(
        self,
        step: int,
        *,
        train_loss: float,
        val_loss: float | None,
        val_accuracy: float | None,
        raw_accuracy: float | None = None,
        test_accuracy: float | None = None,
        is_best: bool,
        learning_rate: float,
        time_s: float,
    ) -> None:
        """Print the row of a validation after `step` steps, which stays."""
        self._clock.validated(step, time.monotonic())
        row = Row(
            epochs=step / self._now.place.steps_per_epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            raw_accuracy=raw_accuracy,
            test_accuracy=test_accuracy,
            is_best=is_best,
            learning_rate=learning_rate,
            time_s=time_s,
        )
        *header, line = self._table.lines(row)
        for title in header:
            self._say(title, style="bold")
        self._say(line, style="green" if is_best else "")
        self.busy("training")  # until there are figures again

    def stopping(self, *, disturbed: bool = False) -> None:
        """Show that a stop was asked for; any thread may call it.

        `disturbed`: another program writes to this terminal about the same, so the bars cannot be found again.
        """
        self._is_stopping = True
        if self._live and self._live.is_started and not disturbed:
            self._live.refresh()
            return
        if self._live and disturbed:
            self._abandon(self._live)
        self._say(STOPPING + (_AGAIN if self._on_terminal else ""))

    def note(self, text: str) -> None:
        """Say something above the bars."""
        self._say(text, fold=True)

    def warn(self, text: str) -> None:
        """Say something that the user should act on."""
        self._say(f"warning: {text}", style="yellow", fold=True)

    def finish(self, rows: Mapping[str, str], next_commands: Sequence[str]) -> None:
        """Take the bars away and show the results and what can be done with them."""
        self.close()
        self._say("")
        self._show_rows(rows)
        if next_commands:
            self._say("\nnext", style="bold")
            self.commands(next_commands)

    def commands(self, commands: Sequence[str]) -> None:
        """Print command lines that can be copied whole; on a terminal they go on in a new line as a shell reads it."""
        for command in commands:
            for line in _folded(command, self._console.width) if self._on_terminal else [command]:
                self._say(f"  {line}")

    def _picture(self) -> Group:
        """Return the live part; the thread that draws calls it."""
        now = self._now  # one look, as the other thread may put another in its place
        busy = f"{now.busy} ({duration(time.monotonic() - now.busy_since_s)})" if now.busy else ""
        shown = figures(now.reading) if now.reading and not busy else busy
        hint = Text(STOPPING + _AGAIN, style="bold yellow") if self._is_stopping else Text(_HINT, style="dim")
        return picture(now.place, now.eta, shown, hint, columns=self._console.width)

    def _abandon(self, live: Live) -> None:
        """Leave the bars where they are: taking them away would take other lines instead."""
        self._live, self.is_disturbed, self._beaten_s = None, True, time.monotonic()
        self._console.quiet = True
        live.stop()
        self._console.quiet = False
        self._console.show_cursor(True)
        self._say("")

    def _show_rows(self, rows: Mapping[str, str]) -> None:
        """Print names and values in two columns; only a terminal has a width to fold long values to."""
        width = max(map(len, rows), default=0)
        if not self._on_terminal:
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
        self._console.print(Text(text, style=style), soft_wrap=not (fold and self._on_terminal))


def _folded(command: str, columns: int) -> list[str]:
    """Return a command in lines that fit, each but the last ended as a shell expects it."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) + len("    \\") > columns - len("  "):
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def silent() -> Display:
    """Return a display that shows nothing, for every rank but the first."""
    nowhere = Console(file=io.StringIO(), quiet=True)
    return Display(nowhere, total_steps=1, steps_per_epoch=1, start_step=0, heartbeat_s=math.inf)
