"""What the audio of each clip is like: how loud, how long, whether it was clipped, and how it begins and ends.

Levels are in dBFS: of the root mean square, relative to a constant at full scale, so a full-scale sine is at -3. They
leave the mean of a clip (a microphone's offset) out, and none is below -120.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kws_dist.corpus.clip import NOISE_WORD, SAMPLE_RATE_HZ, Samples
from kws_dist.shards.blocks import read_blocks
from kws_dist.shards.codec import decode
from kws_dist.shards.record import BLOCK_BYTES
from kws_dist.shards.verify import Verified
from kws_dist.shards.verify_shard import VerifiedShard

FULL_SCALE = 32_767
CLIPPED_RUN_SAMPLES = 3
"""So many samples in a row at full scale are clipping: what Audacity's "Find Clipping" starts at by default."""
FRAME_MS = 20
_FRAME_SAMPLES = FRAME_MS * SAMPLE_RATE_HZ // 1000
_PRE_EMPHASIS = np.float32(0.97)  # takes away hum and rumble, which are often louder than the word
_FLOOR = 1e-12

MEASURES = np.dtype(
    [
        ("level_dbfs", "<f4"),  # of the whole clip
        ("loudest_dbfs", "<f4"),  # of its loudest frame
        ("contrast_db", "<f4"),  # of the loudest frame over the quietest tenth; this and the next with pre-emphasis
        ("start_db", "<f4"),  # of the quieter half of the first frame, relative to the loudest: a click fills but one
        ("end_db", "<f4"),  # of the quieter half of the last frame, relative to the loudest
        ("full_scale_samples", "<i4"),  # samples at full scale
        ("clipped_runs", "<i4"),  # places with CLIPPED_RUN_SAMPLES or more of them in a row
        ("is_constant", "?"),  # all samples are equal
    ]
)


@dataclass(frozen=True, slots=True)
class Clips:
    """The whole clips of a dataset as columns of equal length, sorted by key."""

    keys: list[str]
    split: NDArray[np.str_]
    word: NDArray[np.str_]
    speaker: NDArray[np.str_]
    n_samples: NDArray[np.int64]
    checksum: NDArray[np.uint64]
    """xxh3-64 of the samples."""
    measures: NDArray[np.void]
    """dtype `MEASURES`."""
    vocabulary: tuple[str, ...]
    """The words in label order."""

    def __len__(self) -> int:
        return len(self.keys)


def examine(verified: Verified, *, workers: int = 1, on_clips: Callable[[int], None] = lambda _: None) -> Clips:
    """Measure every whole clip of a dataset whose `dataset.json` can be read; several shards at once."""
    assert verified.meta is not None, "without a vocabulary there are no words"
    words = tuple(verified.meta.words)
    shards = [shard for shard in verified.shards if shard.index and shard.is_listed_index]

    def one(shard: VerifiedShard) -> NDArray[np.void]:
        measures = _measure_shard(shard)
        on_clips(len(measures))
        return measures

    with ThreadPoolExecutor(workers) as threads:
        measures = list(threads.map(one, shards))
    return _sorted_by_key(shards, measures, words)


def measure(samples: Samples) -> tuple[float | int | bool, ...]:
    """Measure one clip `(samples,)`, int16; returns a row of `MEASURES`."""
    wave = samples.astype(np.float32) / np.float32(FULL_SCALE + 1)
    low, high = int(samples.min()), int(samples.max())
    full, runs = _clipping(samples) if high >= FULL_SCALE or low <= -FULL_SCALE else (0, 0)
    emphasised = np.subtract(wave[1:], _PRE_EMPHASIS * wave[:-1], dtype=np.float32)
    wave -= wave.mean()
    part = _without_padding(samples, emphasised)
    frames, first, last = np.sort(_powers(part)), part[:_FRAME_SAMPLES], part[-_FRAME_SAMPLES:]
    loudest, quiet = _db(max(frames[-1], _power(first), _power(last))), _db(frames[len(frames) // 10])
    return (
        _db(_power(wave)),
        _db(_powers(wave).max()),
        loudest - quiet,
        _db(_quieter_half(first)) - loudest,
        _db(_quieter_half(last)) - loudest,
        full,
        runs,
        low == high,
    )


def read_clips(verified: Verified, keys: Sequence[str]) -> dict[str, Samples]:
    """Return the samples `(samples,)` of a few clips by their keys."""
    wanted, found = set(keys), dict[str, Samples]()
    for shard in verified.shards:
        for number, key in enumerate(shard.index.keys if shard.index else ()):
            if key in wanted and shard.whole[number]:
                found[key] = _read_clip(shard, number)
    return found


def _read_clip(shard: VerifiedShard, number: int) -> Samples:
    assert shard.index is not None, "the clip is whole"
    row = shard.index.rows[number]
    with shard.path.open("rb") as file:
        file.seek(int(row["audio_offset"]))
        return decode(file.read(int(row["audio_bytes"])), shard.index.codec, int(row["n_samples"]))


def _measure_shard(shard: VerifiedShard) -> NDArray[np.void]:
    """Return the measures of the whole clips of a shard, in its order."""
    assert shard.index is not None
    index, found = shard.index, list[tuple[float | int | bool, ...]]()
    sizes, audio_bytes, n_samples = (index.rows[name].tolist() for name in ("record_bytes", "audio_bytes", "n_samples"))
    if shard.whole.any():
        for numbers, block in read_blocks(shard.path, index):
            first = BLOCK_BYTES
            for number in numbers:
                if shard.whole[number]:
                    audio = block[first : first + audio_bytes[number]]
                    found.append(measure(decode(audio, index.codec, n_samples[number])))
                first += sizes[number]
    return np.array(found, MEASURES)


def _sorted_by_key(shards: list[VerifiedShard], measures: list[NDArray[np.void]], words: tuple[str, ...]) -> Clips:
    keys, split, word, speaker = list[str](), list[str](), list[str](), list[str]()
    parts = [np.zeros(0, [("n_samples", "<u4"), ("checksum", "<u8")])]
    names = [*words, NOISE_WORD]  # label -1 is the noise
    for shard in shards:
        assert shard.index is not None
        whole = np.flatnonzero(shard.whole)
        rows = shard.index.rows[whole]
        keys += [shard.index.keys[i] for i in whole]
        split += [shard.split] * len(rows)
        word += [names[label] for label in rows["label"].tolist()]
        speaker += [shard.index.speakers[i] for i in rows["speaker"].tolist()]
        parts.append(rows[["n_samples", "checksum"]].astype(parts[0].dtype))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    table = np.concatenate(parts)[order]
    return Clips(
        keys=[keys[i] for i in order],
        split=np.array(split, np.str_)[order],
        word=np.array(word, np.str_)[order],
        speaker=np.array(speaker, np.str_)[order],
        n_samples=table["n_samples"].astype(np.int64),
        checksum=table["checksum"],
        measures=np.concatenate([np.zeros(0, MEASURES), *measures])[order],
        vocabulary=words,
    )


def _clipping(samples: Samples) -> tuple[int, int]:
    """Count the samples at full scale, and the places with several in a row."""
    full = (samples >= FULL_SCALE) | (samples <= -FULL_SCALE)
    edges = np.flatnonzero(np.diff(full, prepend=False, append=False))
    lengths = edges[1::2] - edges[::2]
    return int(full.sum()), int((lengths >= CLIPPED_RUN_SAMPLES).sum())


def _without_padding(samples: Samples, wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Leave out zeros that were put before and behind a recording, which hide where it was cut off."""
    sound = samples != 0
    first, last = int(sound.argmax()), len(samples) - 1 - int(sound[::-1].argmax())
    return wave[first:last] if sound[first] else wave


def _powers(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean square of each frame; of the whole, if it is shorter than one."""
    frames = len(wave) // _FRAME_SAMPLES
    if not frames:
        return np.array([_power(wave)], np.float32)
    framed = wave[: frames * _FRAME_SAMPLES].reshape(frames, _FRAME_SAMPLES)
    return np.einsum("ft,ft->f", framed, framed) / np.float32(_FRAME_SAMPLES)


def _quieter_half(frame: NDArray[np.float32]) -> float:
    return min(_power(frame[: len(frame) // 2]), _power(frame[len(frame) // 2 :]))


def _power(wave: NDArray[np.float32]) -> float:
    return float(wave @ wave) / max(len(wave), 1)


def _db(power: float) -> float:
    return 10 * math.log10(max(float(power), _FLOOR))  # numpy rounds that of a float32 to one, and then more is less
