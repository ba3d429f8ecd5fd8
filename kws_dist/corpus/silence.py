"""Clips of silence, cut from noise recordings of which each split has a stretch of its own.

Training has the first 80 % of every recording, validation the next 10 %, test the last. No sample is in two splits,
however many clips are cut.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, SILENCE_WORD, SPLITS, Clip, Samples
from kws_dist.errors import ClipError, DataError, UsageError

CLIP_SAMPLES = SAMPLE_RATE_HZ
"""How long a clip of silence is: 1 s."""
_CLIP_BYTES = 2 * CLIP_SAMPLES


def stretch(samples: int, split: str) -> range:
    """Return the samples of a noise recording of this length that are for a split."""
    first, last = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}[split]
    return range(samples * first // 10, samples * last // 10)


def windows(lengths: Sequence[int], split: str, count: int) -> list[tuple[int, range]]:
    """Return `count` windows as (number of the recording, its samples), evenly spaced over the split's stretches.

    `lengths`: of the recordings, in samples. They may overlap each other, never a window of another split. There are
    none if no stretch has room for one.
    """
    stretches = [stretch(samples, split) for samples in lengths]
    ends = list(accumulate(max(len(part) - CLIP_SAMPLES + 1, 0) for part in stretches))
    if not ends or ends[-1] == 0:
        return []
    cut = []
    for number in range(count):
        place = (2 * number + 1) * ends[-1] // (2 * count)  # of all places that a window can begin at
        recording = bisect_right(ends, place)
        first = stretches[recording].start + place - (ends[recording - 1] if recording else 0)
        cut.append((recording, range(first, first + CLIP_SAMPLES)))
    return cut


def volume(key: str) -> float:
    """Return how loud a clip is, as a factor: uniform in [0, 1), fixed for each key."""
    return int.from_bytes(hashlib.sha256(f"volume of {key}".encode()).digest()[:6], "big") / 2.0**48


class Silence:
    """Fixed clips of silence; the recordings they are cut from are read when the first one is wanted."""

    def __init__(self, noise: Sequence[str], counts: Mapping[str, int], where: str) -> None:
        """`noise`: names of recordings; `counts`: how many clips each split is to have; `where` is for errors.

        Raises `UsageError` if clips are wanted and there is no noise.
        """
        if any(counts.values()) and not noise:
            raise UsageError(f"{where}: no recordings in it, which {SILENCE_WORD} is cut from; leave silence out")
        self.noise = tuple(sorted(noise))
        self._counts, self._where = dict(counts), where
        self._number = {f"{SILENCE_WORD}/{s}-{i:06d}": (s, i) for s in SPLITS for i in range(counts.get(s, 0))}
        self._recordings: list[Samples] | None = None
        self._windows: dict[str, list[tuple[int, range]]] = {}

    def __contains__(self, key: str) -> bool:
        """Whether the clip is one of these."""
        return key in self._number

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is cached: another process reads the recordings itself."""
        return self.__dict__ | {"_recordings": None, "_windows": {}}

    @property
    def clips(self) -> list[Clip]:
        """Return the clips of all splits."""
        return [
            Clip(key=key, word=SILENCE_WORD, speaker="", split=split, size_bytes=_CLIP_BYTES)
            for key, (split, _) in self._number.items()
        ]

    def read(self, key: str, read_noise: Callable[[str], Samples]) -> Samples:
        """Return the samples `(16000,)` of a clip; `read_noise` reads a recording by its name.

        Recordings that cannot be read are done without. Raises `DataError` if none is long enough.
        """
        if self._recordings is None:
            self._recordings = [_read_or_nothing(name, read_noise) for name in self.noise]
        split, number = self._number[key]
        if split not in self._windows:
            self._windows[split] = self._cut(split, self._recordings)
        recording, window = self._windows[split][number]
        loud = self._recordings[recording][window.start : window.stop] * volume(key)
        return np.rint(loud).astype(np.int16)

    def _cut(self, split: str, recordings: Sequence[Samples]) -> list[tuple[int, range]]:
        lengths = [len(samples) for samples in recordings]
        cut = windows(lengths, split, self._counts[split])
        if not cut:
            needed_s = CLIP_SAMPLES / SAMPLE_RATE_HZ / (0.8 if split == "train" else 0.1)
            raise DataError(
                f"{self._where}: the longest of its recordings that can be read has"
                f" {max(lengths, default=0) / SAMPLE_RATE_HZ:.2f} s; {SILENCE_WORD} for {split} is cut from one of"
                f" at least {needed_s:g} s: add one, or leave silence out"
            )
        return cut


def training_part(samples: Samples) -> Samples:
    """Return the part `(samples * 0.8,)` of a noise recording that training may hear."""
    part = stretch(len(samples), "train")
    return samples[part.start : part.stop]


def _read_or_nothing(name: str, read_noise: Callable[[str], Samples]) -> Samples:
    try:
        return read_noise(name)
    except ClipError:  # whoever reads it as a clip is told
        return np.zeros(0, np.int16)
