"""Keyed permutations of any range, element by element, in no memory, in numpy or on a device.

A Feistel network over two digits with cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains",
CT-RSA 2002, section 5 (generalised Feistel).
"""

from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from kws_dist import keyed
from kws_dist.keyed import Ints

_ROUNDS = 10  # with 8, the orders of a range as small as 5 are not yet equally frequent to the eye


@dataclass(frozen=True)
class Ranges(Generic[Ints]):
    """Ranges [0, size) to permute, with the two digits in which their numbers are written; arrays of one shape."""

    size: Ints
    low: Ints
    """Base of the lower digit, the root of the size rounded up."""
    high: Ints
    """Base of the higher digit: `low * high` is the size, or a little more."""

    @staticmethod
    def of(sizes: "np.ndarray | list[int]") -> "Ranges[np.ndarray]":
        """Prepare ranges of these sizes, each from 1 to 2^52."""
        size = np.asarray(sizes, np.int64)
        low = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.int64)
        return Ranges(size, low, -(-size // low))

    def at(self, which: Ints) -> "Ranges[Ints]":
        """Return the ranges of these numbers `(B,)`."""
        return Ranges(self.size[which], self.low[which], self.high[which])


def permute(x: Any, ranges: Ranges[Any], key: int, counter: Any) -> Any:
    """Send each x[i] in [0, size[i]) through a permutation of that range, chosen by `(key, counter[i])`.

    All are int64 arrays of one shape, or tensors on one device.

    The network permutes the numbers below `low * high`; walking along its cycle until a value falls inside the
    range again makes that a permutation of the range itself. Few walk: one in about the root of the size.
    """
    round_key = keyed.mixed_with(key, counter)
    x = _feistel(x, ranges.low, ranges.high, round_key)
    outside: Any = x >= ranges.size
    while outside.any():
        x[outside] = _feistel(x[outside], ranges.low[outside], ranges.high[outside], round_key[outside])
        outside = x >= ranges.size
    return x


def _feistel(x: Ints, low_base: Ints, high_base: Ints, round_key: Ints) -> Ints:
    low, high = x % low_base, x // low_base
    for number in range(0, _ROUNDS, 2):
        low = _added(low, _below(keyed.mixed_with(number, high ^ round_key), low_base), low_base)
        high = _added(high, _below(keyed.mixed_with(number + 1, low ^ round_key), high_base), high_base)
    return high * low_base + low


def _below(bits: Ints, base: Ints) -> Ints:
    """Scale 31 of the hashed bits to [0, base)."""
    return ((bits >> 33) & 0x7FFFFFFF) * base >> 31


def _added(digit: Ints, number: Ints, base: Ints) -> Ints:
    total = digit + number
    return total - base * (total >= base)
