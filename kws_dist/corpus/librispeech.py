"""Keyword clips cut out of LibriSpeech, or of recordings laid out like it, by word alignments."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import xxhash

from kws_dist.corpus.alignments import folded, read_alignments
from kws_dist.corpus.clip import SAMPLE_RATE_HZ, SPLITS, UNKNOWN_WORD, Clip, Rejected
from kws_dist.corpus.naming import keys_of
from kws_dist.corpus.open_container import open_container
from kws_dist.corpus.recordings import Recordings, Span
from kws_dist.corpus.splits import DEFAULT_SHARES, Spoken, assign_splits, parse_shares, split_of_name
from kws_dist.corpus.utterances import Utterance, at, list_utterances
from kws_dist.corpus.word_clips import Cut, Occurrence, drawn
from kws_dist.errors import ClipError, UsageError

LongWord = Literal["reject", "crop"]
"""What becomes of a word that is longer than a clip: it is left out, or its loudest part is kept."""


class _Cutting(NamedTuple):
    """A word that becomes a clip."""

    word: str
    """As the user writes it, or `_unknown_`."""
    occurrence: Occurrence
    span: Span

    @property
    def name(self) -> str:
        """What the key is made from: `yes/84-121123-0000-00490`, `_unknown_/hear-84-121123-0000-01490`."""
        said = f"{self.occurrence.word}-" if self.word == UNKNOWN_WORD else ""
        return f"{self.word}/{said}{self.occurrence.mark}"

    @property
    def speaker(self) -> str:
        return self.occurrence.utterance.speaker


def open_librispeech(
    root: Path,
    alignments: Path,
    *,
    words: Sequence[str],
    unknown_percent: float = 100.0,
    split: str | None = None,
    margin_ms: float = 50.0,
    clip_seconds: float = 1.0,
    long: LongWord = "reject",
) -> Recordings:
    """Return a clip for every time that one of `words` is said, and as many of other words as `unknown_percent` says.

    `root` and `alignments` are folders or archives, as they come or unpacked: `LibriSpeech/`, or one subset of it.
    A clip is the word with `margin_ms` of what is before and after it (see `Cut.span`). The subsets give the splits
    (`train-*`, `dev-*`, `test-*`), unless there is but one kind of them or `split` gives shares such as `80/10/10`:
    then speakers are divided. Other words are drawn by hash in each split. Raises `UsageError` for a word that is
    missing in a split, and if there are fewer other words than asked for.
    """
    keywords = _keywords(words)
    cut = _cut(margin_ms, clip_seconds, long)
    _check_number("--unknown_percent", unknown_percent, unknown_percent >= 0, "at least 0")
    aligned = read_alignments(alignments)
    container = open_container(root, "--root")
    utterances, left_out = list_utterances(container, aligned, keywords)
    cuttings, unfit = _cut_out(utterances, keywords, cut)
    rejected = [*aligned.rejected, *left_out, *unfit]
    _check_found(root, words, utterances, cuttings, rejected)
    split_of, rule = _splits(root, utterances, cuttings, split)
    if unknown_percent:
        cuttings += _others(utterances, keywords, cuttings, split_of, unknown_percent, cut)
    return Recordings(
        container,
        [UNKNOWN_WORD, *words] if unknown_percent else words,
        _clips(cuttings, split_of, clip_seconds),
        clip_samples=round(clip_seconds * SAMPLE_RATE_HZ),
        rejected=rejected,
        about={
            "kind": "librispeech",
            "alignments": alignments.resolve().name,
            "alignments_sha256": aligned.sha256,
            "words": [*words],
            "split_rule": rule,
            "unknown_percent": unknown_percent,
            "margin_ms": margin_ms,
            "clip_seconds": clip_seconds,
            "long": long,
        },
    )


def _keywords(words: Sequence[str]) -> dict[str, str]:
    """Return the words as the user writes them, by what they are called here."""
    keywords: dict[str, str] = {}
    for word in words:
        if len(word.split()) != 1:
            raise UsageError(f"--words: {word!r} is not one word, and alignments are of single words")
        if folded(word) in keywords:
            raise UsageError(f"--words: {keywords[folded(word)]!r} and {word!r} are the same word; name it once")
        keywords[folded(word)] = word
    if not keywords:
        raise UsageError("--words: name the words to cut out, such as --words yes,no")
    return keywords


def _cut(margin_ms: float, clip_seconds: float, long: str) -> Cut:
    _check_number("--margin_ms", margin_ms, margin_ms >= 0, "at least 0")
    _check_number("--clip_seconds", clip_seconds, clip_seconds > 0, "above 0")
    return Cut(margin_s=margin_ms / 1000, clip_s=clip_seconds, crop=long == "crop")


def _check_number(flag: str, value: float, fits: bool, limit: str) -> None:
    if not (fits and math.isfinite(value)):
        raise UsageError(f"{flag} {value}: give a number {limit}")


def _cut_out(
    utterances: Sequence[Utterance], keywords: Mapping[str, str], cut: Cut
) -> tuple[list[_Cutting], list[Rejected]]:
    cuttings, rejected = [], []
    for utterance in utterances:
        for place, word in enumerate(utterance.alignment.words):
            if word not in keywords:
                continue
            one = Occurrence(utterance, place)
            try:
                cuttings.append(_Cutting(keywords[word], one, cut.span(one)))
            except ClipError as error:
                name = at(utterance.name, one.start_s)
                rejected.append(Rejected(name=name, reason=str(error), word=keywords[word]))
    return cuttings, rejected


def _check_found(
    root: Path,
    words: Sequence[str],
    utterances: Sequence[Utterance],
    cuttings: Sequence[_Cutting],
    rejected: Sequence[Rejected],
) -> None:
    """Raise `UsageError` if a word can be cut out nowhere, with the reason if it is there."""
    if not utterances:
        why = f"; for one, {rejected[0].name}: {rejected[0].reason}" if rejected else ""
        raise UsageError(f"--root {root}: no recordings SPEAKER-CHAPTER-NUMBER.flac that can be used{why}")
    found = {cutting.word for cutting in cuttings}
    for word in words:
        lost = [row for row in rejected if row.word == word]
        if word not in found:
            why = f"{len(lost)} times, and none can be used; for one, {lost[0].name}: {lost[0].reason}" if lost else ""
            raise UsageError(f"--words: {word!r} is said {why or f'in none of the {len(utterances):,} utterances'}")


def _splits(
    root: Path, utterances: Sequence[Utterance], cuttings: Sequence[_Cutting], split: str | None
) -> tuple[dict[str, str], str]:
    """Return the split of every speaker, and the rule it came from: `subsets` or the shares."""
    role_of = {utterance.subset: split_of_name(utterance.subset.partition("-")[0]) for utterance in utterances}
    if split is None and len(set(role_of.values())) > 1:
        return _splits_of_subsets(root, utterances, cuttings, role_of), "subsets"
    rule = split or DEFAULT_SHARES
    shares = parse_shares(rule)
    spoken = [Spoken(cutting.name, cutting.word, cutting.speaker) for cutting in cuttings]
    assigned = assign_splits(spoken, shares, speakers_from="that word")
    split_of = {utterance.speaker: _split_of_hash(utterance.speaker, shares) for utterance in utterances}
    return split_of | {cutting.speaker: assigned[cutting.name] for cutting in cuttings}, rule


def _split_of_hash(speaker: str, shares: Mapping[str, float]) -> str:
    """Return the split of a speaker who says none of the words, and so need not be balanced against others."""
    place, end = xxhash.xxh3_64_intdigest(speaker.encode()) / 2**64, 0.0
    for split, share in shares.items():
        end += share
        if place < end:
            return split
    return list(shares)[-1]  # the shares add up to 1 but for rounding


def _splits_of_subsets(
    root: Path, utterances: Sequence[Utterance], cuttings: Sequence[_Cutting], role_of: Mapping[str, str | None]
) -> dict[str, str]:
    otherwise = f"or pass --split {DEFAULT_SHARES} to divide the speakers of all subsets"
    split_of: dict[str, str] = {}
    for utterance in utterances:
        role = role_of[utterance.subset]
        if role is None:
            raise UsageError(
                f"--root {root}: the name of the subset {utterance.subset!r} does not say what it is for;"
                f" call it train-..., dev-... or test-..., {otherwise}"
            )
        if split_of.setdefault(utterance.speaker, role) != role:
            raise UsageError(
                f"--root {root}: speaker {utterance.speaker} is in subsets for {split_of[utterance.speaker]} and for"
                f" {role}; take one away, {otherwise}"
            )
    counts = Counter((cutting.word, split_of[cutting.speaker]) for cutting in cuttings)
    splits = [split for split in SPLITS if split in role_of.values()]
    for word in dict.fromkeys(cutting.word for cutting in cuttings):
        if not all(counts[word, split] for split in splits):
            found = ", ".join(f"{counts[word, split]} times in {split}" for split in splits)
            raise UsageError(
                f"--words: {word!r} was found {found}, and every word must be in every split;"
                f" add subsets, leave the word out, {otherwise}"
            )
    return split_of


def _others(
    utterances: Sequence[Utterance],
    keywords: Collection[str],
    cuttings: Sequence[_Cutting],
    split_of: Mapping[str, str],
    percent: float,
    cut: Cut,
) -> list[_Cutting]:
    """Draw other words in each split."""
    others: list[_Cutting] = []
    clips = Counter(split_of[cutting.speaker] for cutting in cuttings)
    for split in (split for split in SPLITS if clips[split]):
        wanted = math.ceil(clips[split] * percent / 100)
        theirs = [utterance for utterance in utterances if split_of[utterance.speaker] == split]
        chosen = list(islice(drawn(theirs, keywords, cut), wanted))
        if len(chosen) < wanted:
            raise UsageError(
                f"--unknown_percent {percent:g}: that is {wanted:,} other words in {split}, and there are"
                f" {len(chosen):,}; ask for {math.floor(100 * len(chosen) / clips[split])} at most"
            )
        others += [_Cutting(UNKNOWN_WORD, occurrence, span) for occurrence, span in chosen]
    return others


def _clips(cuttings: Sequence[_Cutting], split_of: Mapping[str, str], clip_seconds: float) -> dict[Clip, Span]:
    keys = keys_of([cutting.name for cutting in cuttings])
    spans = {}
    for cutting in cuttings:
        span = cutting.span
        assert span.end_s is not None, "words end"
        clip = Clip(
            key=keys[cutting.name],
            word=cutting.word,
            speaker=cutting.speaker,
            split=split_of[cutting.speaker],
            size_bytes=2 * round(min(span.end_s - span.start_s, clip_seconds) * SAMPLE_RATE_HZ),
        )
        spans[clip] = span
    return spans
