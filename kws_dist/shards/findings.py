"""What the clips of a dataset show that somebody should know: leaks between splits, doubles, and poor recordings.

A finding is an error where a result measured on such data is worth less than it looks: a speaker in two splits, the
same recording in two splits or under two words. Everything else is a warning: recordings are as they are.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kws_dist.corpus.clip import NOISE_SPLIT, SAMPLE_RATE_HZ, SILENCE_WORD, SPLITS
from kws_dist.shards.examine import CLIPPED_RUN_SAMPLES, FRAME_MS, Clips

SHORT_MS = 100
"""A shorter clip is near-empty: it has no room for a word."""
QUIET_DBFS = -50.0
"""A clip whose loudest frame is quieter is near-empty."""
FLAT_DB = 6.0
"""A clip whose loudest frame is less than this over its quietest tenth is near-empty: it holds steady noise. (Words
trimmed tightly out of a noisy recording have 7 dB and more, nearly all of them.)"""
CUT_DB = 10.0
"""A clip may be cut off if its first or last frame is within this of its loudest, and more than this over its quietest
tenth."""


@dataclass(frozen=True, slots=True)
class Item:
    """One case of a finding."""

    what: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything of one kind that was looked for; without items nothing was found."""

    kind: str
    """Short name, for programs."""
    title: str
    """What it is, in a few words."""
    rule: str
    """What counts as one."""
    is_error: bool
    items: list[Item]
    """The worst first."""

    @property
    def keys(self) -> set[str]:
        """The clips that it concerns."""
        return {key for item in self.items for key in item.keys}


def find(clips: Clips) -> list[Finding]:
    """Look for everything there is a rule for; errors first."""
    return [
        _speaker_leaks(clips),
        *_same_audio(clips),
        _silent(clips),
        _near_empty(clips),
        _cut_off(clips),
        _clipped(clips),
        _missing_words(clips),
    ]


def _speaker_leaks(clips: Clips) -> Finding:
    of_speaker: defaultdict[str, list[int]] = defaultdict(list)
    for i in np.flatnonzero((clips.split != NOISE_SPLIT) & (clips.speaker != "")).tolist():
        of_speaker[str(clips.speaker[i])].append(i)
    items = []
    for speaker, numbers in sorted(of_speaker.items(), key=lambda row: (-len(row[1]), row[0])):
        counts = {split: int((clips.split[numbers] == split).sum()) for split in SPLITS}
        listed = [f"{_counted(count, 'clip')} in {split}" for split, count in counts.items() if count]
        if len(listed) > 1:
            items.append(Item(f"{speaker}: {', '.join(listed)}", tuple(clips.keys[i] for i in numbers)))
    rule = "clips of one speaker in different splits; noise does not count"
    return Finding("speaker_in_two_splits", "a speaker in two splits", rule, True, items)


def _same_audio(clips: Clips) -> list[Finding]:
    """Sort clips with the same samples by how much harm they do; `_silence_` of nothing but zeros does none."""
    same: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    harmless = (clips.word == SILENCE_WORD) & clips.measures["is_constant"]
    for i in np.flatnonzero(~harmless).tolist():
        same[int(clips.checksum[i]), int(clips.n_samples[i])].append(i)
    in_splits, under_words, otherwise = list[Item](), list[Item](), list[Item]()
    for group in same.values():
        if len(group) > 1:
            splits, words = {str(clips.split[i]) for i in group}, {str(clips.word[i]) for i in group}
            names = [clips.keys[i] if len(splits) == 1 else f"{clips.keys[i]} ({clips.split[i]})" for i in group]
            where = f"{min(splits)}: " if len(splits) == 1 else ""
            item = Item(f"{where}{' = '.join(names)}", tuple(clips.keys[i] for i in group))
            for items, is_one in ((in_splits, len(splits) > 1), (under_words, len(words) > 1)):
                items += [item] if is_one else []
            otherwise += [item] if len(splits) == len(words) == 1 else []
    rule = "clips with the same samples"
    return [
        Finding("audio_in_two_splits", "the same audio in two splits", f"{rule} in different splits", True, in_splits),
        Finding("audio_under_two_words", "the same audio under two words", f"{rule}, other words", True, under_words),
        Finding("audio_twice", "the same audio twice", f"{rule}, one word and split", False, otherwise),
    ]


def _silent(clips: Clips) -> Finding:
    chosen = clips.measures["is_constant"] & (clips.word != SILENCE_WORD)
    rule = f"all samples are equal; {SILENCE_WORD} may be"
    items = _items(clips, chosen, -clips.n_samples, lambda i: f"{clips.n_samples[i] / SAMPLE_RATE_HZ:.2f} s of nothing")
    return Finding("silent", "silent", rule, False, items)


def _near_empty(clips: Clips) -> Finding:
    length_ms = 1000 * clips.n_samples / SAMPLE_RATE_HZ
    loudest, contrast = clips.measures["loudest_dbfs"], clips.measures["contrast_db"]

    def what(i: int) -> str:
        level = f"loudest {FRAME_MS} ms at {loudest[i]:.0f} dBFS, {contrast[i]:.0f} dB over its quietest tenth"
        return f"{length_ms[i]:.0f} ms long" if length_ms[i] < SHORT_MS else level

    rule = (
        f"shorter than {SHORT_MS} ms, or its loudest {FRAME_MS} ms below {QUIET_DBFS:g} dBFS or less than"
        f" {FLAT_DB:g} dB over its quietest tenth; {SILENCE_WORD} and noise may be"
    )
    return Finding("near_empty", "near-empty", rule, False, _items(clips, _is_near_empty(clips), loudest, what))


def _is_near_empty(clips: Clips) -> NDArray[np.bool_]:
    short = 1000 * clips.n_samples < SHORT_MS * SAMPLE_RATE_HZ
    quiet, flat = clips.measures["loudest_dbfs"] < QUIET_DBFS, clips.measures["contrast_db"] < FLAT_DB
    return _is_spoken(clips) & ~clips.measures["is_constant"] & (short | quiet | flat)


def _cut_off(clips: Clips) -> Finding:
    start, end = clips.measures["start_db"], clips.measures["end_db"]
    edge = np.maximum(start, end)
    loud_edge = (edge > -CUT_DB) & (clips.measures["contrast_db"] + edge > CUT_DB)

    def what(i: int) -> str:
        sides = {"start": start[i], "end": end[i]}
        loud = [f"its {side} is {-db:.0f} dB below its loudest" for side, db in sides.items() if db > -CUT_DB]
        return " and ".join(loud)

    rule = (
        f"all of its first or last {FRAME_MS} ms within {CUT_DB:g} dB of its loudest, and more than {CUT_DB:g} dB"
        f" over its quietest tenth; or it was trimmed to the word; {SILENCE_WORD} and noise may be"
    )
    chosen = _is_spoken(clips) & loud_edge & ~_is_near_empty(clips)
    return Finding("cut_off", "may be cut off", rule, False, _items(clips, chosen, -edge, what))


def _clipped(clips: Clips) -> Finding:
    runs = clips.measures["clipped_runs"]
    share = clips.measures["full_scale_samples"] / clips.n_samples

    def what(i: int) -> str:
        return f"{100 * share[i]:.2g} % of its samples at full scale, clipped in {_counted(runs[i], 'place')}"

    rule = f"{CLIPPED_RUN_SAMPLES} or more samples in a row at full scale"
    return Finding("clipped", "clipped", rule, False, _items(clips, runs > 0, -share, what))


def _missing_words(clips: Clips) -> Finding:
    items = []
    for split in SPLITS:
        there = set(clips.word[clips.split == split].tolist())
        items += [Item(f"{word} in {split}") for word in clips.vocabulary if there and word not in there]
    rule = "a split that has clips has none of this word"
    return Finding("word_without_clips", "a word without clips in a split", rule, False, items)


def _is_spoken(clips: Clips) -> NDArray[np.bool_]:
    return (clips.split != NOISE_SPLIT) & (clips.word != SILENCE_WORD)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _items(
    clips: Clips, chosen: NDArray[np.bool_], order: NDArray[np.number], what: Callable[[int], str]
) -> list[Item]:
    """List the chosen clips, those with the least `order` first."""
    numbers = np.flatnonzero(chosen)
    numbers = numbers[np.argsort(order[numbers], kind="stable")]
    return [Item(f"{clips.keys[i]}: {what(i)}", (clips.keys[i],)) for i in numbers.tolist()]
