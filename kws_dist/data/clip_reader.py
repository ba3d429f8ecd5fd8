"""From the bytes of a clip in a shard to a row of fixed length: checked, decoded, padded or cropped.

Every store makes its rows with `read_into`, so they give the same bits wherever the clips live.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kws_dist.errors import UsageError
from kws_dist.shards.read import Rows, pcm_of, verify_record

Ints = NDArray[np.int64]
Samples = NDArray[np.int16]


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


def read_into(out: Samples, rows: Rows, clip: int, record: bytes | memoryview, policy: ClipPolicy) -> None:
    """Check the record of a clip and write its samples into the row `out` `(clip_samples,)`, all of which is set.

    `record` holds the bytes of the clip from `record_offset` on, `record_bytes` of them. Raises `DataError` naming
    shard, key and remedy when they are not those that were written.
    """
    verify_record(rows, clip, record)
    fit(out, pcm_of(rows, clip, record), policy)


def fit(out: Samples, pcm: Samples, policy: ClipPolicy) -> None:
    """Write samples of any number into the row `out` `(clip_samples,)`, padded or cropped; all of it is set."""
    begin = int(first_sample(np.array(len(pcm)), policy))
    pcm = pcm[max(-begin, 0) :][: len(out)]
    begin = max(begin, 0)
    out[:begin] = 0
    out[begin : begin + len(pcm)] = pcm
    out[begin + len(pcm) :] = 0


def first_sample(n_samples: Ints, policy: ClipPolicy) -> Ints:
    """Return where in the row a clip of so many samples begins; negative: so many samples of it are cut off."""
    room = policy.clip_samples - n_samples
    before = np.where(room >= 0, room // 2 * (policy.pad == "center"), -(-room // 2) * (policy.long == "center"))
    return before.astype(np.int64)


def refuse_long(rows: Rows, policy: ClipPolicy) -> None:
    """Raise `UsageError` if a clip is longer than a row and the policy does not say what to do."""
    over = np.flatnonzero(rows.n_samples > policy.clip_samples)
    if len(over) and policy.long == "error":
        raise UsageError(
            f"{len(over)} clips, the first {rows.keys[over[0]]!r}, are longer than the model's"
            f" {policy.clip_samples} samples: pass --data.long start or center to crop them,"
            " or a larger --data.clip_seconds"
        )


def select(rows: Rows, keep: Ints) -> Rows:
    """Return only the rows `keep`; shard paths and codec are common to all."""
    changed = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        if field.name not in ("shard_paths", "codec"):
            changed[field.name] = [column[i] for i in keep] if isinstance(column, list) else column[keep]
    return replace(rows, **changed)
