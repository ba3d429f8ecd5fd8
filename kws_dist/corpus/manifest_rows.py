"""The rows of a list of recordings: a CSV table with a header line, or one JSON object a line."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kws_dist.corpus.naming import fault_of_word, word_of
from kws_dist.errors import DataError, UsageError

FIELDS = ("path", "word", "start", "end", "speaker", "split")
_NEEDED = ("path", "word")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One recording, or a part of one, as the list has it."""

    line: int
    """From 1, as an editor counts."""
    path: str
    word: str
    start_s: float = 0.0
    end_s: float | None = None
    speaker: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """A list that has been read."""

    good: list[Row]
    bad: dict[int, str]
    """What is wrong with a line, by its number."""
    other_fields: list[str]
    """Columns that mean nothing here."""


def read_rows(path: Path, flag: str) -> Rows:
    """Read a list of recordings: `flag` is `--csv` or `--jsonl`.

    Raises `UsageError` if there is none or it is no such list, `DataError` if it is no text.
    """
    if not path.is_file():
        raise UsageError(f"{flag} {path}: there is no such file")
    content = _text_of(path)
    lines = _csv_lines(content, f"{flag} {path}") if flag == "--csv" else _json_lines(content)
    rows = Rows([], {}, [])
    others: set[str] = set()
    for line, fields in lines:
        if isinstance(fields, str):
            rows.bad[line] = fields
            continue
        others |= set(fields).difference(FIELDS)
        row = _row(line, fields)
        if isinstance(row, str):
            rows.bad[line] = row
        else:
            rows.good.append(row)
    rows.other_fields.extend(sorted(others))
    return rows


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # what spreadsheets call "Unicode text"
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start:,}"
        raise DataError(f"{path}: not a text in UTF-8 ({where}); save it as UTF-8") from error


def _csv_lines(content: str, where: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the fields of every row by name, or what is wrong with it, after its line number."""
    first = content.lstrip().partition("\n")[0]
    delimiter = next((d for d in _DELIMITERS if set(_NEEDED) <= set(_names(first, d))), ",")
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _checked_header(_names_of(cells), where)
            elif len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
                why = f"it has {len(cells)} fields and the header {len(names)}; quote what holds a {delimiter!r}"
                yield reader.line_num, why
            else:
                yield reader.line_num, dict(zip_longest(names, cells[: len(names)], fillvalue=""))
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num} cannot be read as CSV ({error})") from error
    if names is None:
        raise UsageError(f"{where}: it is empty; the first line names the columns: {', '.join(FIELDS)}")


def _names(line: str, delimiter: str) -> list[str]:
    return _names_of(line.split(delimiter))


def _names_of(cells: Sequence[str]) -> list[str]:
    return [cell.strip().strip('"').strip().lower() for cell in cells]


def _checked_header(names: list[str], where: str) -> list[str]:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UsageError(
            f"{where}: its first line names no column {' and no column '.join(missing)} (it is {', '.join(names)!r});"
            f" the columns are {', '.join(FIELDS)}, of which the first two are needed"
        )
    twice = next((name for name in names if name in FIELDS and names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{where}: it has two columns called {twice!r}; rename one")
    return names


def _json_lines(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, f"it is not JSON ({error})"
            continue
        yield line, fields if isinstance(fields, dict) else "it is not a JSON object, like {...}"


def _row(line: int, fields: Mapping[str, Any]) -> Row | str:
    """Return a row, or what is wrong with it."""
    texts = {}
    for name in ("path", "word", "speaker", "split"):
        value = fields.get(name)
        if isinstance(value, bool | list | dict | float):
            return f"its {name} is {value!r}, not a text"
        texts[name] = "" if value is None else str(value).strip()
    texts["word"] = word_of(texts["word"])
    start_s, end_s = _seconds(fields.get("start"), 0.0), _seconds(fields.get("end"), math.inf)
    faults = {
        "it names no path": not texts["path"],
        "its path holds characters that cannot be printed": not texts["path"].isprintable(),
        "its speaker holds characters that cannot be printed": not texts["speaker"].isprintable(),
        f"its start {fields.get('start')!r} is not a number of seconds": start_s is None or not 0 <= start_s < math.inf,
        f"its end {fields.get('end')!r} is not a number of seconds": end_s is None or not end_s >= 0,
    }
    fault = next((fault for fault, found in faults.items() if found), None) or fault_of_word(texts["word"])
    if fault or start_s is None or end_s is None:
        return fault or ""
    if start_s >= end_s:
        return f"its start {start_s:g} s is not before its end {end_s:g} s"
    return Row(line=line, start_s=start_s, end_s=None if end_s == math.inf else end_s, **texts)


def _seconds(value: Any, default: float) -> float | None:
    """Return a number of seconds, None if it is none; a decimal comma is understood."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return default
    try:
        return None if isinstance(value, bool) else float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
