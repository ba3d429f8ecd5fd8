"""The table of validations, which stays on the screen: a row for each, and columns that fit the terminal."""

from dataclasses import dataclass

from kws_dist.display_picture import duration, fraction, rate

_GAP = "  "
_GIVEN_UP_FIRST = ("lr", "time", "train loss", "raw acc", "val loss", "test acc")
"""What a narrow terminal does without, in this order."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known after one validation."""

    epochs: float
    """Epochs trained, with a fraction inside an epoch."""
    train_loss: float
    """Mean since the last validation."""
    val_loss: float | None
    val_accuracy: float | None
    raw_accuracy: float | None
    """Of the weights that are not averaged, where an average is evaluated."""
    test_accuracy: float | None
    is_best: bool
    learning_rate: float
    time_s: float
    """Since the last validation."""

    def cells(self) -> dict[str, str]:
        """Return every cell by its header, as wide as its column."""
        cells = {
            "epoch": f"{_epochs(self.epochs):>6}",
            "train loss": f"{self.train_loss:>10.4f}",
            "val loss": f"{fraction(self.val_loss, 4):>8}",
            "val acc": f"{fraction(self.val_accuracy, 4):>7}",
            "raw acc": f"{fraction(self.raw_accuracy, 4):>7}",
            "test acc": f"{fraction(self.test_accuracy, 4):>8}",
            "best": f"{'*' if self.is_best else '':4}",
            "lr": f"{rate(self.learning_rate):>8}",
            "time": f"{duration(self.time_s):>11}",
        }
        unknown = {"raw acc": self.raw_accuracy is None, "test acc": self.test_accuracy is None}
        return {name: cell for name, cell in cells.items() if not unknown.get(name)}


class EpochTable:
    """Chooses the columns by the first row, and keeps to them."""

    def __init__(self, columns: int | None) -> None:
        """`columns` is the width of the terminal; None for a file, which has none."""
        self._columns = columns
        self._shown: dict[str, int] = {}

    def lines(self, row: Row) -> list[str]:
        """Return the line of a row, the first time with that of the headers above it."""
        cells = row.cells()
        is_first = not self._shown
        if is_first:
            self._shown = self._fitting({name: len(cell) for name, cell in cells.items()})
        line = _GAP.join(cells.get(name, "").rjust(width) for name, width in self._shown.items()).rstrip()
        return [self._header(), line] if is_first else [line]

    def _header(self) -> str:
        titles = [name.ljust(width) if name == "best" else name.rjust(width) for name, width in self._shown.items()]
        return _GAP.join(titles).rstrip()

    def _fitting(self, widths: dict[str, int]) -> dict[str, int]:
        for name in _GIVEN_UP_FIRST:
            if self._columns is None or sum(widths.values()) + len(_GAP) * (len(widths) - 1) <= self._columns:
                break
            widths.pop(name, None)
        return widths


def _epochs(epochs: float) -> str:
    """Return 12 at the end of an epoch, and 12.5 or 12.25 inside one."""
    if epochs.is_integer():
        return f"{epochs:.0f}"
    return f"{epochs:.1f}" if round(10 * epochs, 6).is_integer() else f"{epochs:.2f}"
