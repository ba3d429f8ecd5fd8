"""From the bytes of a clip in a shard to a row of fixed length: checked, decoded, padded or cropped.

Every store makes its rows so, and they are the same bits wherever the clips live.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kws_dist.errors import DataError, UsageError
from kws_dist.shards.read import Rows, pcm_of, verify_record

Ints = NDArray[np.int64]
Samples = NDArray[np.int16]
Number = TypeVar("Number", int, Ints)


@dataclass(frozen=True, kw_only=True)
class ClipPolicy:
    """What to do with clips that are not just as long as the model expects, or that are damaged."""

    clip_samples: int
    pad: Literal["end", "center"] = "end"
    """Where zeros go in a shorter clip: all behind it, or half on each side."""
    long: Literal["error", "start", "center"] = "error"
    """A longer clip is refused, or this part of it is kept."""
    on_bad_clip: Literal["error", "skip"] = "error"
    """A damaged clip ends the run, or is left out and counted."""

    @property
    def row_bytes(self) -> int:
        """Size of a row of int16 samples."""
        return 2 * self.clip_samples


def read_into(out: Samples, rows: Rows, clip: int, record: bytes | memoryview, policy: ClipPolicy) -> None:
    """Check the record of a clip and write its samples into the row `out` `(clip_samples,)`, all of which is set.

    `record` holds the bytes of the clip from `record_offset` on, `record_bytes` of them. Raises `DataError` naming
    shard, key and remedy when they are not those that were written.
    """
    verify_record(rows, clip, record)
    fit(out, pcm_of(rows, clip, record), policy)


def fit(out: Samples, pcm: Samples, policy: ClipPolicy) -> None:
    """Write samples of any number into the row `out` `(clip_samples,)`, padded or cropped; all of it is set."""
    begin = first_sample(len(pcm), policy)
    if begin < 0:
        pcm, begin = pcm[-begin:], 0
    pcm = pcm[: len(out)]
    end = begin + len(pcm)
    out[:begin] = 0
    out[begin:end] = pcm
    out[end:] = 0


def first_sample(n_samples: Number, policy: ClipPolicy) -> Number:
    """Return where in its row a clip of so many samples begins; -n means that its first n samples are cut off."""
    room = policy.clip_samples - n_samples
    padded, cropped = policy.pad == "center", policy.long == "center"
    return (room > 0) * (room // 2) * padded - (room < 0) * (-room // 2) * cropped


def refuse_long(rows: Rows, policy: ClipPolicy) -> None:
    """Raise `UsageError` if a clip is longer than a row and the policy does not say what to do."""
    over = np.flatnonzero(rows.n_samples > policy.clip_samples)
    if len(over) and policy.long == "error":
        raise UsageError(
            f"{len(over)} clips, the first {rows.keys[over[0]]!r}, are longer than the model's"
            f" {policy.clip_samples} samples: pass --data.long start or center to crop them,"
            " or a larger --data.clip_seconds"
        )


def unreadable(path: Path, error: OSError) -> DataError:
    """Return what to tell a user whose shard the system does not let us read."""
    return DataError(f"{path} cannot be read ({error.strerror}): check the disk, or make the shards again")


def disk_order(rows: Rows) -> Ints:
    """Return all clip numbers in the order in which the clips lie on disk."""
    return np.lexsort((rows.record_offset, rows.shard))


def select(rows: Rows, keep: Ints) -> Rows:
    """Return only the rows `keep`; shard paths and codec are common to all."""
    changed = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        if field.name not in ("shard_paths", "codec"):
            changed[field.name] = [column[i] for i in keep] if isinstance(column, list) else column[keep]
    return replace(rows, **changed)
