"""Recordings of which the word is known, made into clips: vocabulary, splits, lengths and keys."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kws_dist.corpus.audio import AudioForm
from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SAMPLE_RATE_HZ, SILENCE_WORD, UNKNOWN_WORD, Clip, Rejected
from kws_dist.corpus.container import Container
from kws_dist.corpus.naming import Part, fault_of_word, keys_of_parts, word_of
from kws_dist.corpus.recordings import LONG_REMEDY, Long, Recordings, Span, noise_spans, seconds_of, spans_of
from kws_dist.corpus.splits import DEFAULT_SHARES, Spoken, assign_splits, check_splits, parse_shares
from kws_dist.errors import UsageError

_SAMPLE_BYTES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One recording, or a part of one, and what the user says it is."""

    name: str
    """The file in the container."""
    base: str
    """What its key is made from: a path that is the same wherever the recordings lie."""
    word: str
    form: AudioForm
    speaker: str = ""
    split: str = ""
    """As given; empty if it is to be assigned."""
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the user asks for."""

    where: str
    """The flag and path that name the recordings, for errors."""
    words: Sequence[str] | None
    """The vocabulary in label order; None is all words, sorted."""
    split: str | None
    """Shares of train, val and test."""
    long: Long
    clip_seconds: float
    speakers_from: str
    """What tells the speakers, for errors."""
    splits_from: str
    """What tells the splits, if any are given."""


def recordings_of(
    container: Container,
    takes: Sequence[Take],
    rejected: Sequence[Rejected],
    wishes: Wishes,
    about: Mapping[str, Any],
) -> Recordings:
    """Make clips of the takes, which are of different recordings or of different parts; `about` is for `provenance`.

    Raises `UsageError` for words that are not there, words that are missing in a split, and recordings that are too
    long when that is to be an error.
    """
    if not 0 < wishes.clip_seconds < 3600:
        raise UsageError(f"--clip_seconds {wishes.clip_seconds:g}: not a length for a clip; the usual one is 1.0")
    takes, too_long = _decodable(takes, wishes.long)
    rejected = [*rejected, *too_long]
    _check_words_left(wishes, {take.word for take in takes}, rejected)
    words = _vocabulary(wishes, {take.word for take in takes} - {NOISE_WORD})
    chosen = [take for take in takes if take.word in words or take.word == NOISE_WORD]
    split_of, rule = _splits(chosen, wishes)
    spans = _spans(chosen, wishes)
    clips = _clips(chosen, split_of, spans, wishes.clip_seconds)
    facts = {
        **about,
        **rule,
        "clip_seconds": wishes.clip_seconds,
        "long": wishes.long,
        "conversions": _conversions(chosen, spans),
        "recordings_of_other_words": len(takes) - len(chosen),
    }
    clip_samples = round(wishes.clip_seconds * SAMPLE_RATE_HZ)
    return Recordings(container, words, clips, clip_samples=clip_samples, rejected=rejected, about=facts)


def _decodable(takes: Sequence[Take], long: Long) -> tuple[list[Take], list[Rejected]]:
    """Leave out what would have to be decoded whole, to find where it is loudest, and is too long for that."""
    kept, rejected = list[Take](), list[Rejected]()
    for take in takes:
        seconds, most_s = seconds_of(take.form, take.start_s, take.end_s), take.form.most_seconds
        if long == "crop" and take.word != NOISE_WORD and seconds > most_s:
            reason = f"it lasts {seconds:,.0f} s; cut it into recordings of {most_s:,.0f} s, or pass --long window"
            rejected.append(Rejected(name=take.name, reason=reason, word=take.word, split=take.split))
        else:
            kept.append(take)
    return kept, rejected


def _check_words_left(wishes: Wishes, there: set[str], rejected: Sequence[Rejected]) -> None:
    """Raise `UsageError` for a word of which nothing can be used, rather than do without it in silence."""
    wanted = [word_of(word) for word in wishes.words] if wishes.words is not None else None
    for row in sorted(rejected, key=lambda row: row.name):
        is_word = row.word and fault_of_word(row.word) is None
        if is_word and row.word not in there and (wanted is None or row.word in wanted):
            raise UsageError(
                f"{wishes.where}: no recording of {row.word!r} can be used, e.g. {row.name}: {row.reason}; mend them,"
                " or name the words to use by --words"
            )


def _vocabulary(wishes: Wishes, there: set[str]) -> tuple[str, ...]:
    if wishes.words is None:
        special = [word for word in (SILENCE_WORD, UNKNOWN_WORD) if word in there]
        return (*special, *sorted(there.difference(special)))
    words = tuple(word_of(word) for word in wishes.words)
    missing = [word for word in words if word not in there]
    if missing or not words:
        what = f"no recordings of {', '.join(map(repr, missing))} in" if missing else "no word given for"
        raise UsageError(f"--words: {what} {wishes.where}; the words there are: {', '.join(sorted(there))}")
    return words


def _splits(takes: Sequence[Take], wishes: Wishes) -> tuple[dict[Part, str], dict[str, Any]]:
    """Return the split of every take, and what is to be said about where it comes from."""
    spoken = [Spoken(_text(take), take.word, take.speaker) for take in takes if take.word != NOISE_WORD]
    given = {_text(take): take.split for take in takes if take.word != NOISE_WORD and take.split}
    if given:
        if wishes.split is not None:
            raise UsageError(
                f"--split {wishes.split}: {wishes.where} is already divided by its {wishes.splits_from}; leave it out"
            )
        split_of = given
        rule = {
            "split_rule": wishes.splits_from,
            "speakers_in_several_splits": check_splits(spoken, given, wishes.where),
        }
    else:
        shares = wishes.split or DEFAULT_SHARES
        split_of = assign_splits(spoken, parse_shares(shares), wishes.speakers_from)
        _check_overlaps([take for take in takes if take.word != NOISE_WORD], split_of, wishes)
        rule = {"split_rule": shares, "speakers_in_several_splits": 0}
    return {_part(take): split_of.get(_text(take), NOISE_SPLIT) for take in takes}, rule


def _check_overlaps(takes: Sequence[Take], split_of: Mapping[str, str], wishes: Wishes) -> None:
    """Raise `UsageError` where the same stretch of a recording would be in two splits."""
    before, last_s = None, 0.0  # the part of the same file that ends last so far
    for take in sorted(takes, key=lambda take: (take.name, take.start_s)):
        end_s = take.start_s + seconds_of(take.form, take.start_s, take.end_s)
        if before is None or before.name != take.name:
            before, last_s = take, end_s
            continue
        if take.start_s < last_s and split_of[_text(take)] != split_of[_text(before)]:
            raise UsageError(
                f"{wishes.where}: parts of {take.name} overlap, such as those from {before.start_s:g} s and from"
                f" {take.start_s:g} s, and would be in {split_of[_text(before)]} and {split_of[_text(take)]}; give the"
                f" recording a speaker, name the splits, or pass --split 100/0/0"
            )
        if end_s > last_s:
            before, last_s = take, end_s


def _spans(takes: Sequence[Take], wishes: Wishes) -> list[list[Span]]:
    """Return what each take is made into."""
    if wishes.long == "error":
        _check_lengths([take for take in takes if take.word != NOISE_WORD], wishes.clip_seconds)
    return [
        noise_spans(take.name, take.form, take.start_s, take.end_s)
        if take.word == NOISE_WORD
        else spans_of(take.name, take.form, wishes.clip_seconds, wishes.long, start_s=take.start_s, end_s=take.end_s)
        for take in takes
    ]


def _check_lengths(takes: Iterable[Take], clip_seconds: float) -> None:
    seconds = {take.name: seconds_of(take.form, take.start_s, take.end_s) for take in takes}
    most = round(clip_seconds * SAMPLE_RATE_HZ)
    long = sorted(name for name, length_s in seconds.items() if round(length_s * SAMPLE_RATE_HZ) > most)
    if long:
        raise UsageError(
            f"--long error: {len(long):,} of {len(seconds):,} recordings are longer than a clip of {clip_seconds:g} s,"
            f" e.g. {long[0]} ({seconds[long[0]]:.2f} s); {LONG_REMEDY}"
        )


def _clips(
    takes: Sequence[Take], split_of: Mapping[Part, str], spans: Sequence[Sequence[Span]], clip_seconds: float
) -> dict[Clip, Span]:
    parts = [[(take.base, span.start_s, span.end_s) for span in made] for take, made in zip(takes, spans, strict=True)]
    key_of = keys_of_parts(part for made in parts for part in made)
    clips: dict[Clip, Span] = {}
    for take, made, its_parts in zip(takes, spans, parts, strict=True):
        split = split_of[_part(take)]
        for span, part in zip(made, its_parts, strict=True):
            seconds = seconds_of(take.form, span.start_s, span.end_s)
            kept_s = seconds if split == NOISE_SPLIT else min(seconds, clip_seconds)
            clip = Clip(
                key=key_of[part],
                word=take.word,
                speaker=take.speaker,
                split=split,
                size_bytes=round(kept_s * SAMPLE_RATE_HZ) * _SAMPLE_BYTES,
            )
            clips[clip] = span
    return clips


def _conversions(takes: Sequence[Take], spans: Sequence[Sequence[Span]]) -> dict[str, int | None]:
    """Count what is done to recordings, for the summary."""
    files = {take.name: take.form for take in takes}
    done = Counter({"resampled": sum(form.rate_hz != SAMPLE_RATE_HZ for form in files.values())})
    done["mixed_down"] = sum(form.channels > 1 for form in files.values())
    for take, made in zip(takes, spans, strict=True):
        done["cropped"] += made[0].loudest
        done["windows"] += len(made) if len(made) > 1 and take.word != NOISE_WORD else 0
    speakers = len({take.speaker for take in takes} - {""})
    return {kind: done[kind] for kind in ("resampled", "mixed_down", "cropped", "windows")} | {
        "speakers": speakers or None
    }


def _part(take: Take) -> Part:
    return (take.base, take.start_s, take.end_s)


def _text(take: Take) -> str:
    """What decides the split of a take, beside its speaker."""
    return take.base if _part(take)[1:] == (0.0, None) else f"{take.base} {take.start_s} {take.end_s}"
