"""`Clip`, the record of one recording, and `Source`, the thing that lists clips and reads their audio."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
SPLITS = ("train", "val", "test")
NOISE_SPLIT = "noise"
NOISE_WORD = "_background_noise_"

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
    def provenance(self) -> dict[str, Any]:
        """Where the clips come from, as `dataset.json` records it: kind, path, checksum."""
        ...

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Samples]]:
        """Yield `(key, samples)` of every wanted key once, in whatever order the source finds cheapest.

        Raises `DataError` naming the recording when its audio cannot be read.
        """
        ...
