"""Random numbers as a pure function of integers: counter-based, the same in numpy and torch, on any device.

A hash of `(seed, purpose, counter, ...)` takes the place of a generator with a state, so the randomness of draw
t can be computed by anyone at any time. The mixer is the 64-bit finaliser of SplitMix64 (Steele, Lea, Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014; constants of variant 13 by D. Stafford).

Everything is written with `+ * ^ & >>` on signed 64-bit integers that wrap, which numpy arrays and torch tensors
do alike; the logical right shift that the mixer needs is an arithmetic one with the sign bits masked off.
"""

from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

Ints = TypeVar("Ints", np.ndarray, torch.Tensor)
"""An int64 numpy array or torch tensor of any shape; what goes in comes out."""

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the odd integer nearest 2^64 / golden ratio, as a signed int64
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_MASK = (1 << 64) - 1
_UNIT_BITS = 24  # a float32 holds 24-bit integers exactly, so every device makes the same float


def mix(x: Ints) -> Ints:
    """Scramble int64 values; a bijection of the 64-bit integers."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def mixed_with(key: int, counters: Ints) -> Ints:
    """Hash an int64 array of counters under a key: same shape, every element an independent int64."""
    return mix((counters * _MIX_2) ^ _signed(key + _GOLDEN))


@lru_cache(maxsize=4096)
def fold(key: int, *parts: int) -> int:
    """Make one int64 key of several Python integers; the order matters. Kept, as every batch asks for the same few."""
    for part in parts:
        x = ((part * _MIX_2) ^ (key + _GOLDEN)) & _MASK
        x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
        x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
        key = _signed(x ^ (x >> 31))
    return key


def unit(bits: torch.Tensor) -> torch.Tensor:
    """Turn hashed int64 values into float32 uniform on [0, 1), identically on every device."""
    return ((bits >> (64 - _UNIT_BITS)) & ((1 << _UNIT_BITS) - 1)).to(torch.float32) * (2.0**-_UNIT_BITS)


def uniforms(seed: int, purpose: int, draws: torch.Tensor, count: int) -> torch.Tensor:
    """Return `(B, count)` float32 in [0, 1): `count` independent numbers for each of the int64 `draws` `(B,)`.

    `purpose` separates the uses of one draw (its shift, its noise, ...), so that adding one changes no other.
    """
    per_draw = mixed_with(fold(seed, purpose), draws)
    columns = torch.arange(1, count + 1, device=draws.device, dtype=torch.int64) * _GOLDEN
    return unit(mix(per_draw[:, None] + columns[None, :]))


def below(key: int, counters: Ints, size: "int | Ints") -> Ints:
    """Return for each of the int64 `counters` a number in [0, size), equally likely to 1 in 2^62 / size."""
    return (mixed_with(key, counters) & ((1 << 62) - 1)) % size


def _signed(x: int) -> int:
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x
