"""`Clip`, the record of one recording, and `Source`, the thing that lists clips and reads their audio."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
SPLITS = ("train", "val", "test")
NOISE_SPLIT = "noise"
NOISE_WORD = "_background_noise_"
UNKNOWN_WORD = "_unknown_"
"""The word of every recording of a word outside the vocabulary."""
SILENCE_WORD = "_silence_"
"""The word of a stretch of background noise in which nobody speaks."""

Samples = NDArray[np.int16]
"""One recording: shape (samples,), int16 mono PCM at 16 kHz."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What one recording is; its audio is read from the `Source` when it is wanted."""

    key: str
    """Stable and unique within a dataset, made from the source path: letters, digits, `_`, `-` and `/` only."""
    word: str
    """The word spoken; `_background_noise_` for noise recordings."""
    speaker: str
    """Who spoke it; empty where unknown."""
    split: str
    """`train`, `val`, `test`, or `noise`."""
    size_bytes: int
    """About how much memory the audio takes, so that a writer can plan what to hold at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A recording that was left out, as `rejected.jsonl` lists it."""

    name: str
    """Where it is in the source: a path inside the folder or archive, or a line of a manifest; of what turned out to be
    unusable only when it was read, the key of the clip."""
    reason: str
    """What is wrong with it, as the end of a sentence that begins with its name."""
    word: str = ""
    split: str = ""


class Source(Protocol):
    """A corpus: every clip is known before any audio is read."""

    @property
    def clips(self) -> Sequence[Clip]:
        """All clips, sorted by key."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """The vocabulary in label order: the index of a word is its label."""
        ...

    @property
    def rejected(self) -> Sequence[Rejected]:
        """The recordings that were left out when the clips were listed."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the clips come from, as `dataset.json` records it: kind, path, checksum, and every choice made."""
        ...

    @property
    def state(self) -> str:
        """A text that changes when a recording is changed in place; to be compared on one machine only."""
        ...

    def staged(self, keys: Collection[str], folder: Path) -> AbstractContextManager[None]:
        """While in this context, the clips can be read in any order, also by processes forked in it.

        `folder` has room for temporary files, which are gone at the end.
        """
        ...

    def read(self, key: str) -> Samples:
        """Return the samples `(samples,)` of a staged clip.

        Raises `ClipError` when this recording cannot be used, `DataError` when the source as a whole cannot.
        """
        ...
