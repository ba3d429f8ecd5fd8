"""Recordings that look like spoken words to whoever measures them, in a source that holds them in memory."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kws_dist.corpus.clip import NOISE_WORD, SPLITS, Clip, Rejected, Samples
from kws_dist.shards.codec import Codec
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import write_dataset

WORDS = ("yes", "no", "up")


def word(number: int, *, hz: float = 0.0, n_samples: int = 8000, level: float = 8000.0) -> Samples:
    """Return a clip `(n_samples,)` of faint noise with a tone that swells and fades in its middle, unlike any other."""
    random = np.random.default_rng(number)
    wave = 3 * random.standard_normal(n_samples)
    swell = level * np.hanning(n_samples // 2)
    time_s = np.arange(len(swell)) / 16_000
    wave[n_samples // 4 :][: len(swell)] += swell * np.sin(2 * np.pi * (hz or 400 + 7 * number) * time_s)
    return np.rint(wave).astype(np.int16)


@dataclass(frozen=True)
class Recording:
    """One clip: what it is and what it sounds like."""

    key: str
    word: str
    split: str
    samples: Samples
    speaker: str = ""


@dataclass
class Recordings:
    """A source of recordings in memory."""

    recordings: Iterable[Recording]
    words: tuple[str, ...] = WORDS
    rejected: tuple[Rejected, ...] = ()
    provenance: dict[str, Any] = field(default_factory=lambda: {"kind": "memory"})
    state: str = ""

    @property
    def clips(self) -> list[Clip]:
        """All clips, sorted by key."""
        return [
            Clip(key=one.key, word=one.word, speaker=one.speaker, split=one.split, size_bytes=2 * len(one.samples))
            for one in sorted(self.recordings, key=lambda one: one.key)
        ]

    @contextmanager
    def staged(self, keys: Collection[str], folder: Path) -> Iterator[None]:
        """Nothing has to be fetched."""
        del keys, folder
        yield

    def read(self, key: str) -> Samples:
        """Return the samples of a clip."""
        return {one.key: one.samples for one in self.recordings}[key]


def spoken(per_split: int = 4) -> dict[str, Recording]:
    """Return a set with which nothing is wrong: every word in every split, every speaker in one, and a noise."""
    made = [
        Recording(
            key=f"{word_}/{split}-{i}",
            word=word_,
            split=split,
            speaker=f"{split}-{i}",
            samples=word((w * len(SPLITS) + s) * per_split + i),
        )
        for w, word_ in enumerate(WORDS)
        for s, split in enumerate(SPLITS)
        for i in range(per_split)
    ]
    noise = np.random.default_rng(0).integers(-50, 50, 24_000).astype(np.int16)
    made.append(Recording(key="noise/hum", word=NOISE_WORD, split="noise", samples=noise))
    return {one.key: one for one in made}


def shards_of_recordings(
    recordings: Iterable[Recording],
    out: Path,
    *,
    words: tuple[str, ...] = WORDS,
    codec: Codec = "wav",
    shard_clips: int = 6,
    rejected: tuple[Rejected, ...] = (),
) -> Path:
    """Make a dataset of recordings."""
    source = Recordings(list(recordings), words, rejected)
    plan = make_plan(source, shard_clips=shard_clips, seed=0, codec=codec)
    write_dataset(source, plan, out, task="spoken", command=["make", "it"])
    return out
