"""Keys of clips, made from the names of their recordings: whatever a user calls a file, the key is plain and unique."""

import re
from pathlib import PurePosixPath

import xxhash

from kws_dist.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_OTHER = re.compile(r"[^A-Za-z0-9_/-]")
_LONGEST = 90  # characters, so that a name in a tar header has room for more


def key_of(name: str) -> str:
    """Return the key for a recording called `name`, a path with `/`.

    Its suffix is left out. What a key cannot hold becomes `_`, and then a hash of the whole name keeps it apart from
    others: `ja/übung 1.wav` -> `ja/_bung_1-8a5c9d01e2f3`.
    """
    stem = str(PurePosixPath(name).with_suffix(""))
    if _PLAIN.fullmatch(stem) and len(stem) <= _LONGEST:
        return stem
    plain = "/".join(part or "_" for part in _OTHER.sub("_", stem).split("/"))
    return f"{plain[-_LONGEST:].lstrip('/')}-{_mark(name)}"


def keys_of(names: list[str]) -> dict[str, str]:
    """Return the key of every name, all different: where two names would share a key, both get a hash of the name."""
    keys = {name: key_of(name) for name in names}
    used: dict[str, int] = {}
    for key in keys.values():
        used[key] = used.get(key, 0) + 1
    return {name: key if used[key] == 1 else f"{key}-{_mark(name)}" for name, key in keys.items()}


def word_list(flag: str, words: str) -> list[str]:
    """Split `--words a,b,c`; raises `UsageError` naming the flag for a gap or a word that comes twice."""
    chosen = [word.strip() for word in words.split(",")]
    if not all(chosen):
        raise UsageError(f"{flag} {words!r}: a word is missing between two commas")
    twice = next((word for word in chosen if chosen.count(word) > 1), None)
    if twice:
        raise UsageError(f"{flag}: {twice!r} is given twice")
    return chosen


def _mark(name: str) -> str:
    return f"{xxhash.xxh3_64_intdigest(name.encode()) & (1 << 48) - 1:012x}"
