"""Damage made with a plan: bytes and JSON that were valid, changed where readers are weakest, the same each time."""

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

ENDS = (0, 1, 2**7 - 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\x80" * 12,
        b"../../evil",
        b"/etc/passwd",
        b"-1",
        b"NaN",
        b"1e999",
        b"\r\n ",
    ),
    *(b"9" * 5000, b"[" * 2000, b'{"a":' * 500, b"!!python/object/apply:os.system [x]", b"&a", b"*a", b"%s%n"),
)
VALUES: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: rng.choice((None, True, False, "", [], {}, 0, -1, 0.5, float("nan"), float("inf"), -float("inf"))),
    lambda rng: rng.choice(ENDS) * rng.choice((1, -1)) + rng.choice((0, 1)),
    lambda rng: 10 ** rng.choice((18, 19, 100, 400)),
    lambda rng: rng.choice(("\0", "\ud800", "\U0010ffff", "../x", "/etc/passwd", ".", "..", "a/b", "x" * 300, "[/x]")),
    lambda rng: nested(rng.choice((3, 300, 900)), rng.choice(([], {}))),
    lambda rng: [rng.choice(ENDS)] * rng.randrange(4),
    lambda rng: {rng.choice(("", "a", "bytes", "\0")): rng.choice(ENDS)},
)


def nested(depth: int, inner: Any) -> Any:
    """Return lists in lists, or objects in objects."""
    for _ in range(depth):
        inner = [inner] if isinstance(inner, list) else {"a": inner}
    return inner


def of_bytes(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return the bytes with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(data, others, rng)
    return data


def of_json(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON text with one to three values, names or entries changed; not always JSON any more."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _changed(value, rng, depth=0)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8, indent=1 if rng.random() < 0.05 else None)
    if rng.random() < 0.1 and text.startswith("{"):
        text = "{" + rng.choice(('"a":1,"a":2,', f'"{rng.choice(list(value) or ["a"])}":{"9" * 5000},')) + text[1:]
    return text.encode(errors="surrogatepass")


def _changed(value: Any, rng: random.Random, depth: int) -> Any:
    """Walk down to a random place and change what is there."""
    if isinstance(value, dict | list) and value and depth < 40 and rng.random() < 0.85:
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = rng.choice(places)
        way = rng.random()
        if way < 0.1:
            del value[place]
        elif way < 0.2 and isinstance(value, dict):
            value[_text(VALUES[3](rng))] = value.pop(place)
        elif way < 0.25 and isinstance(value, list):
            value.append(value[place])
        else:
            value[place] = _changed(value[place], rng, depth + 1)
        return value
    if isinstance(value, str) and value and rng.random() < 0.4:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", "\0", "\ud800", "/", "..", "é", chr(rng.randrange(128)))) + value[at + 1 :]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        return value + rng.choice((1, -1, 2**32, -(2**63), 10**30))
    return rng.choice(VALUES)(rng)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _flip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:  # noqa: ARG001
    return _put(data, rng, lambda old: bytes([old[0] ^ 1 << rng.randrange(8)]), 1)


def _number(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:  # noqa: ARG001
    size, order = rng.choice((1, 2, 4, 4, 8)), rng.choice("<>")
    packed = struct.pack(f"{order}Q", rng.choice(ENDS))
    return _put(data, rng, lambda _: packed[:size] if order == "<" else packed[-size:], size)


def _cut(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:  # noqa: ARG001
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _move(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:  # noqa: ARG001
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    at = rng.randrange(len(data) + 1)
    piece = data[first : min(last, first + 600)]
    return data[:at] + piece + (data[at:] if rng.random() < 0.5 else data[at + len(piece) :])


def _drop(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:  # noqa: ARG001
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.choice((1, 2, 8, 512)) :]


def _text_in(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:  # noqa: ARG001
    text, at = rng.choice(TEXTS), rng.randrange(len(data) + 1)
    return data[:at] + text + data[at + (len(text) if rng.random() < 0.5 else 0) :]


def _put(data: bytes, rng: random.Random, new: Callable[[bytes], bytes], size: int) -> bytes:
    if len(data) < size:
        return data
    # Half of all changes near the beginning, where the headers are.
    at = rng.randrange(min(len(data) - size + 1, 64 if rng.random() < 0.5 else 1 << 30))
    return data[:at] + new(data[at : at + size]) + data[at + size :]


_CHANGES = (_flip, _flip, _number, _number, _cut, _splice, _move, _drop, _text_in)
