"""`metrics.jsonl`, the record of a run: one line of strict JSON per record, one record per step and kind."""

import contextlib
import io
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kws_dist.errors import DataError
from kws_dist.files import write_whole
from kws_dist.sink import Record, Sink

REQUIRED = ("step", "clips_seen", "time_s")


class MetricsFile(Sink):
    """An append-only `metrics.jsonl`: what was logged is in the file when `log` returns.

    Unless the disk is full: then it waits in memory, `warn` is told once, and each record tries again.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = warnings.warn) -> None:
        self._path, self._warn = path, warn
        self._file: io.FileIO | None = None
        self._unwritten = bytearray()

    def log(self, record: Record) -> None:
        """Append the record; nan and infinity become null, which every JSON reader takes."""
        missing = [name for name in REQUIRED if name not in record]
        assert not missing, f"a record needs {missing}, got {sorted(record)}"
        was_behind = bool(self._unwritten)
        self._unwritten += to_json(record).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            if not was_behind:
                self._warn(f"{self._path} cannot be written ({error.strerror}): its lines wait in memory until it can")

    def rewind(self, step: int) -> None:
        """Drop the records of steps beyond `step`, so that a run that goes on from there records every step once."""
        try:
            self._write()
            self._rewrite(keep=lambda record: record["step"] <= step)
        except OSError as error:
            raise DataError(f"{self._path} cannot be written ({error.strerror}), so the run cannot go back") from None

    def finish(self, exit_code: int, summary: Record) -> None:  # noqa: ARG002 -- the protocol of every sink
        """Close the file."""
        try:
            self._write()
        except OSError as error:
            self._warn(f"{self._path} lacks its last lines: it cannot be written ({error.strerror})")
        self._close()

    def _write(self) -> None:
        """Write what is waiting; what of it a full disk still took is not written again."""
        if self._unwritten and self._file is None:
            self._rewrite(keep=lambda _: True)  # or the record would be glued to a half-written line
            self._file = self._path.open("ab", buffering=0)
        while self._unwritten:
            assert self._file
            del self._unwritten[: self._file.write(self._unwritten)]

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rewrite(self, keep: Callable[[Record], bool]) -> None:
        """Keep only some of the whole records."""
        self._close()
        if not self._path.exists():
            return
        kept = [record for record in read_metrics(self._path) if keep(record)]
        write_whole(self._path, "".join(to_json(record) + "\n" for record in kept).encode())


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a `metrics.jsonl` in order, without what a crash left half-written."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if isinstance(record, dict) and "step" in record:
                records.append(record)
    return records


def to_json(record: Record) -> str:
    """Return one line of strict JSON: array scalars become numbers, nan and infinity null, paths strings."""
    return json.dumps(_plain(record), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a scalar of numpy or torch, neither of which is imported for this
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
