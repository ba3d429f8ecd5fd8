"""What things are called: keys of clips, plain and unique whatever a user calls a file, and words."""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import xxhash

from kws_dist.errors import UsageError

MAX_WORD_CHARACTERS = 64
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_OTHER = re.compile(r"[^A-Za-z0-9_/-]")
_LONGEST = 56  # characters: with a hash, a place and a suffix it is to fit into the 100 of a tar header

Part = tuple[str, float, float | None]
"""The name of a recording, and from which second to which it is meant; from 0.0 to None it is all of it."""


def key_of(name: str) -> str:
    """Return the key for a recording called `name`, a path with `/`.

    Its suffix is left out. What a key cannot hold becomes `_`, and then a hash of the whole name keeps it apart from
    others: `ja/übung 1.wav` -> `ja/_bung_1-8a5c9d01e2f3`.
    """
    stem = posixpath.splitext(name)[0]
    if len(stem) <= _LONGEST and _PLAIN.fullmatch(stem):
        return stem
    plain = "/".join(part or "_" for part in _OTHER.sub("_", stem).split("/"))
    return f"{plain[-_LONGEST:].lstrip('/')}-{_mark(name)}"


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Return the key of every name, all different: where two names would share a key, both get a hash of the name."""
    return {part[0]: key for part, key in keys_of_parts((name, 0.0, None) for name in names).items()}


def keys_of_parts(parts: Iterable[Part]) -> dict[Part, str]:
    """Return the key of every part: that of the recording, and if it is not all of it the place in milliseconds.

    All are different: where two would share a key, both get a hash of what they are.
    """
    keys = {part: key_of(part[0]) + _place(part) for part in parts}
    used = Counter(keys.values())
    return {part: key if used[key] == 1 else f"{key}-{_mark(_text(part))}" for part, key in keys.items()}


def word_list(flag: str, words: str) -> list[str]:
    """Split `--words a,b,c`; raises `UsageError` naming the flag for a gap or a word that comes twice."""
    chosen = [word_of(word) for word in words.split(",")]
    if not all(chosen):
        raise UsageError(f"{flag} {words!r}: a word is missing between two commas")
    twice = next((word for word in chosen if chosen.count(word) > 1), None)
    if twice:
        raise UsageError(f"{flag}: {twice!r} is given twice")
    return chosen


def word_of(text: str) -> str:
    """Return a word as it is written everywhere: without blanks around it, its characters composed (Unicode NFC)."""
    return unicodedata.normalize("NFC", text.strip())


def fault_of_word(word: str) -> str | None:
    """Say why a word cannot be used, if so."""
    if not word:
        return "the name of its word is empty"
    if not word.isprintable():
        return f"the word {word!r} holds characters that cannot be printed"
    if len(word) > MAX_WORD_CHARACTERS:
        return f"the word {word[:20]!r}... is longer than {MAX_WORD_CHARACTERS} characters"
    return None


def _is_whole(part: Part) -> bool:
    return part[1:] == (0.0, None)


def _text(part: Part) -> str:
    return part[0] if _is_whole(part) else repr(part)


def _place(part: Part) -> str:
    _, start_s, end_s = part
    if _is_whole(part):
        return ""
    return f"-{round(1000 * start_s)}-{'' if end_s is None else round(1000 * end_s)}ms"


def _mark(name: str) -> str:
    return f"{xxhash.xxh3_64_intdigest(name.encode()) & (1 << 48) - 1:012x}"
