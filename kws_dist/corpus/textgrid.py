"""TextGrid files, in which Praat and the Montreal Forced Aligner keep what is said when.

The long and the short form are read alike, as Praat reads them (its manual, "TextGrid file formats"): what counts are
the numbers and the texts in quotes that stand by themselves, in their order; all else, such as `xmin =`, is comment.
So a file that is cut off, or lacks a number, is an error and not a file with fewer words.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|!.*|([^\s"]+)')
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


class Interval(NamedTuple):
    """A stretch of time with a label."""

    text: str
    start_s: float
    end_s: float


class Tier(NamedTuple):
    """One layer of labels."""

    intervals: list[Interval]
    end_s: float
    """Where the tier ends, which is where the recording does."""


def interval_tier(content: str, is_wanted: Callable[[str], bool]) -> Tier:
    """Return the first interval tier whose name `is_wanted`, as it is in the file, empty labels included.

    Raises `ValueError`, which says what is wrong as the end of a sentence, for anything but a whole TextGrid with it.
    """
    values = _Values(content)
    if not values.text().startswith("ooTextFile") or values.text() != "TextGrid":
        raise ValueError("it is not a TextGrid in text form")
    for _ in ("from", "to"):  # when all tiers together begin and end
        values.number()
    names = []
    for _ in range(values.count()):
        kind, name = values.text(), values.text()
        values.number()
        end_s = values.number()
        count = values.count()
        if kind == "IntervalTier" and is_wanted(name):
            return Tier([values.interval() for _ in range(count)], end_s)
        for _ in range(count):
            if kind == "IntervalTier":
                values.number()
            values.number()
            values.text()
        names.append(name)
    raise ValueError(f"none of its tiers holds words (there are {', '.join(map(repr, names)) or 'none'})")


class _Values:
    """The numbers and texts of a file, one after the other."""

    def __init__(self, content: str) -> None:
        self._values = _values(content)

    def number(self) -> float:
        value = next(self._values, None)
        if not isinstance(value, float):
            raise ValueError("it is cut off" if value is None else f"{value!r} is where a time should be")
        return value

    def text(self) -> str:
        value = next(self._values, None)
        if not isinstance(value, str):
            raise ValueError("it is cut off" if value is None else f"{value:g} is where a text should be")
        return value

    def count(self) -> int:
        number = self.number()
        if number < 0 or not number.is_integer():
            raise ValueError(f"{number:g} is where a count should be")
        return int(number)

    def interval(self) -> Interval:
        start_s, end_s = self.number(), self.number()
        return Interval(self.text().strip(), start_s, end_s)


def _values(content: str) -> Iterator[float | str]:
    for token in _TOKEN.finditer(content):
        text, word = token.groups()
        if text is not None:
            yield text.replace('""', '"')
        elif word is not None and _NUMBER.fullmatch(word) and math.isfinite(float(word)):
            yield float(word)
