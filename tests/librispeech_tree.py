"""Recordings laid out like LibriSpeech, spoken by the synthesiser, with the time of every word known to the sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from kws_dist.corpus import espeak
from kws_dist.corpus.clip import Samples
from kws_dist.corpus.synth import VOICES
from kws_dist.corpus.synth_clip import say, to_pcm

MS = 16
"""Samples in a millisecond: words begin and end at whole milliseconds, which alignments can say exactly."""
GAP_MS = 120
"""The silence before the first word and after the last; between words there is as much, or none."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word in an utterance."""

    text: str
    start_ms: int
    end_ms: int
    samples: Samples
    """How it sounds: from `start_ms` on, ending less than a millisecond before `end_ms`."""


@dataclass(frozen=True, slots=True)
class Told:
    """An utterance."""

    id: str
    subset: str
    samples: Samples
    words: tuple[Word, ...]

    @property
    def speaker(self) -> str:
        return self.id.partition("-")[0]

    @property
    def chapter(self) -> str:
        return self.id.rpartition("-")[0]

    @property
    def folder(self) -> str:
        return f"{self.subset}/{self.id.split('-')[0]}/{self.id.split('-')[1]}"

    @property
    def end_ms(self) -> int:
        return len(self.samples) // MS

    @property
    def intervals(self) -> list[tuple[str, int, int]]:
        """Every word in capitals and every silence, as `""`, with its times in ms."""
        found, end_ms = [], 0
        for word in (*self.words, None):
            start_ms = self.end_ms if word is None else word.start_ms
            if start_ms > end_ms:
                found.append(("", end_ms, start_ms))
            if word is not None:
                found.append((word.text.upper(), word.start_ms, word.end_ms))
                end_ms = word.end_ms
        return found


def tell(utterance: str, subset: str, text: str) -> Told:
    """Say the words of `text`, `,` for a silence of `GAP_MS`; each speaker has a voice."""
    voice = VOICES[int(utterance.split("-")[0]) % len(VOICES)]
    parts, words, end_ms = [np.zeros(GAP_MS * MS, np.int16)], [], GAP_MS
    for token in text.split():
        if token == ",":
            parts.append(np.zeros(GAP_MS * MS, np.int16))
            end_ms += GAP_MS
            continue
        samples = _said(token, voice)
        lasts_ms = -(-len(samples) // MS)
        parts.append(np.pad(samples, (0, lasts_ms * MS - len(samples))))
        words.append(Word(token, end_ms, end_ms + lasts_ms, samples))
        end_ms += lasts_ms
    parts.append(np.zeros(GAP_MS * MS, np.int16))
    return Told(utterance, subset, np.concatenate(parts), tuple(words))


@cache
def _said(word: str, voice: str) -> Samples:
    manner = espeak.Manner(accent="en-us", voice=voice.replace("_", " "), rate_wpm=200)
    return to_pcm(0.5 * say(word, manner, 2 * 16_000))


def small_corpus() -> list[Told]:
    """Return 16 utterances by 8 speakers in 3 subsets; every speaker says `yes` twice and `no` and `don't` once."""
    subset_of = dict.fromkeys((14, 25, 36, 47), "train-clean-5") | dict.fromkeys((84, 95), "dev-clean")
    subset_of |= dict.fromkeys((61, 72), "test-other")
    told = []
    for speaker, subset in subset_of.items():
        chapter = f"{speaker}-{1000 + speaker}"
        told.append(tell(f"{chapter}-0000", subset, "we say yes , and no don't stop the music"))
        told.append(tell(f"{chapter}-0001", subset, "yes the paper , never the water and music for him"))
    return told


def write_recordings(root: Path, told: Sequence[Told]) -> Path:
    """Write the FLAC files and the transcripts."""
    for one in told:
        folder = root / one.folder
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{one.id}.flac", one.samples, 16_000, subtype="PCM_16")
        with (folder / f"{one.chapter}.trans.txt").open("a") as file:
            file.write(f"{one.id} {' '.join(word.text.upper() for word in one.words)}\n")
    return root


def plain_line(one: Told) -> str:
    """Return the line of an utterance in the plain-text form."""
    words = ",".join(text for text, _, _ in one.intervals)
    ends = ",".join(f"{end_ms / 1000:.3f}" for _, _, end_ms in one.intervals)
    return f'{one.id} "{words}" "{ends}"'


def write_plain(folder: Path, told: Sequence[Told], lines: Mapping[str, str] | None = None) -> Path:
    """Write `.alignment.txt` files; `lines` replaces those of some utterances."""
    for one in told:
        path = folder / one.folder / f"{one.chapter}.alignment.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write((lines or {}).get(one.id, plain_line(one)) + "\n")
    return folder


def grid(one: Told, *, short: bool, silence: str = "") -> str:
    """Return the TextGrid of an utterance, as the Montreal Forced Aligner writes it, in the long or the short form."""
    end_s = f"{one.end_ms / 1000:g}"
    rows = [(text.lower() or silence, start_ms / 1000, end_ms / 1000) for text, start_ms, end_ms in one.intervals]
    phones = [("B AE1", 0.0, one.end_ms / 1000)]
    form = _short if short else _long
    return "\n".join(form(end_s, {"phones": phones, "words": rows})) + "\n"


def _short(end_s: str, tiers: Mapping[str, list[tuple[str, float, float]]]) -> Iterator[str]:
    yield from ('File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", end_s, "<exists>", str(len(tiers)))
    for name, rows in tiers.items():
        yield from ('"IntervalTier"', f'"{name}"', "0", end_s, str(len(rows)))
        for text, start_s, stop_s in rows:
            yield from (f"{start_s:g}", f"{stop_s:g}", f'"{text}"')


def _long(end_s: str, tiers: Mapping[str, list[tuple[str, float, float]]]) -> Iterator[str]:
    yield from ('File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {end_s} ")
    yield from ("tiers? <exists> ", f"size = {len(tiers)} ", "item []: ")
    for number, (name, rows) in enumerate(tiers.items(), 1):
        yield from (f"    item [{number}]:", '        class = "IntervalTier" ', f'        name = "{name}" ')
        yield from ("        xmin = 0 ", f"        xmax = {end_s} ", f"        intervals: size = {len(rows)} ")
        for i, (text, start_s, stop_s) in enumerate(rows, 1):
            yield from (f"        intervals [{i}]:", f"            xmin = {start_s:g} ")
            yield from (f"            xmax = {stop_s:g} ", f'            text = "{text}" ')


def write_grids(folder: Path, told: Sequence[Told], *, short: bool, silence: str = "") -> Path:
    """Write a TextGrid for every utterance."""
    for one in told:
        path = folder / one.folder / f"{one.id}.TextGrid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(grid(one, short=short, silence=silence), encoding="utf-8")
    return folder
