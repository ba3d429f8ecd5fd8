"""The figures of a dataset that are neither right nor wrong: how many clips, how long, how loud, spoken by how many."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws_dist.corpus.clip import NOISE_SPLIT, SAMPLE_RATE_HZ, SILENCE_WORD, SPLITS
from kws_dist.shards.examine import Clips


def speakers(clips: Clips) -> dict[str, int]:
    """Count the speakers, and the clips of words whose speaker is and is not known."""
    spoken = (clips.split != NOISE_SPLIT) & (clips.word != SILENCE_WORD)
    known = spoken & (clips.speaker != "")
    return {
        "speakers": len(np.unique(clips.speaker[known])),
        "clips_with_speaker": int(known.sum()),
        "clips_without": int(spoken.sum() - known.sum()),
    }


def per_word(clips: Clips) -> dict[str, dict[str, Any]]:
    """Return for each word its clips in each split, and the least, the median and the most of length and loudness.

    The last row is the noise, if there is any.
    """
    table: dict[str, dict[str, Any]] = {}
    is_noise = clips.split == NOISE_SPLIT
    for word in (*clips.vocabulary, *np.unique(clips.word[is_noise]).tolist()):
        own = clips.word == word
        table[word] = {
            "clips": {
                split: int((own & (clips.split == split)).sum())
                for split in (SPLITS if word in clips.vocabulary else (NOISE_SPLIT,))
            },
            "length_s": _spread(clips.n_samples[own] / SAMPLE_RATE_HZ, digits=3),
            "level_dbfs": _spread(clips.measures["level_dbfs"][own], digits=1),
        }
    return table


def clips_per_word(clips: Clips, split: str) -> dict[str, int]:
    """Return how many clips of each word of the vocabulary a split has."""
    return {word: int(((clips.split == split) & (clips.word == word)).sum()) for word in clips.vocabulary}


def middle_clips(clips: Clips) -> dict[str, str]:
    """Return for each word that has clips the key of the one that is as loud as most: nearest to the median."""
    middle, level = dict[str, str](), clips.measures["level_dbfs"]
    for word in clips.vocabulary:
        own = np.flatnonzero((clips.word == word) & (clips.split != NOISE_SPLIT))
        if len(own):
            middle[word] = clips.keys[own[np.argmin(np.abs(level[own] - np.median(level[own])))]]
    return middle


def balance(clips: Clips) -> dict[str, dict[str, Any]]:
    """Return for each split that has clips its rarest and its commonest word, their counts and their ratio."""
    result: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        counts = clips_per_word(clips, split)
        if any(counts.values()):
            rare, common = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            result[split] = {
                "rarest": rare,
                "rarest_clips": counts[rare],
                "commonest": common,
                "commonest_clips": counts[common],
                "ratio": round(counts[rare] / counts[common], 4),
            }
    return result


def _spread(values: NDArray[Any], digits: int) -> list[float] | None:
    """Return the least, the median and the most."""
    return [round(float(value), digits) for value in np.percentile(values, (0, 50, 100))] if len(values) else None
