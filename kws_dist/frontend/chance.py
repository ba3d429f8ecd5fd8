"""What all augmentations share: what random numbers are for, tables to draw from, and rows that stay as they are.

A row of a batch has the same bits whatever else is in the batch, and on any device. Copying, adding and multiplying
sample by sample does that by itself; sums, Fourier transforms and matrix products do not, because how a library
rounds them depends on the batch. Where they are needed, samples and weights are first rounded to integers, held in
float64, whose sums stay below 2^53: then nothing is rounded, and any order of summing gives the same. Likewise
decibels and the quantiles of a distribution are taken from tables made once on the CPU.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PCM_SCALE = 32_768.0
"""What a float32 sample of 1 is in 16-bit PCM."""

PARTNER = 1 << 62
"""Added to a draw number for the clip that is mixed into it, so that all its random numbers are its own."""

_TABLE_VALUES = 4096

Rows = Tensor | slice
"""Rows of a batch: their numbers `(n,)`, or all."""


class Purpose(IntEnum):
    """What a random number is for. Numbers are never reused: a new one leaves all other draws as they were."""

    SHIFT = 1
    NOISE = 2
    TIME_MASK = 3
    FREQUENCY_MASK = 4
    SILENCE = 5
    SPEED = 6
    TEMPO = 7
    REVERB = 8
    MIX = 9
    SNR_NOISE = 10
    GAIN = 11
    WHITE_NOISE = 12
    DROP = 13
    RECTANGLE = 14


class Spread(nn.Module):
    """A distribution as a table of 4,096 equally likely values: every device draws the same float32 from it."""

    values: Tensor

    def __init__(self, values: NDArray[np.float64]) -> None:
        """`values` `(4096,)`: the quantiles at `probabilities()`."""
        super().__init__()
        assert values.shape == (_TABLE_VALUES,)
        self.register_buffer("values", torch.from_numpy(values.astype(np.float32)), persistent=False)

    def forward(self, uniform: Tensor) -> Tensor:
        """Turn numbers in [0, 1) into values; same shape."""
        return self.values[(uniform * _TABLE_VALUES).long()]


def probabilities() -> NDArray[np.float64]:
    """Return `(4096,)`: the middles of equal parts of [0, 1]."""
    return (np.arange(_TABLE_VALUES) + 0.5) / _TABLE_VALUES


def spread_of_decibels(min_db: float, max_db: float) -> Spread:
    """Return amplitude factors whose level is uniform between two levels in dB."""
    return Spread(10.0 ** ((min_db + probabilities() * (max_db - min_db)) / 20.0))


def decibels(factor: Tensor) -> Tensor:
    """Return the level of an amplitude factor in dB, for people to read."""
    return 20.0 * torch.log10(factor)


def where_it_happens(happens: Tensor, amount: Tensor) -> Tensor:
    """Return `amount` `(B,)` as float32, and NaN where nothing happens."""
    return torch.where(happens, amount.to(torch.float32), torch.nan)


def changed(wave: Tensor, happens: Tensor, make: Callable[[Rows], Tensor]) -> Tensor:
    """Replace the rows of `wave` `(B, T)` for which `happens` `(B,)` by `make(rows)`; the others keep their bits.

    A CPU makes only those; of a GPU the host would have to wait to know which they are, so there all are made.
    """
    if wave.device.type != "cpu":
        return torch.where(happens[:, None], make(slice(None)), wave)
    rows = happens.nonzero().flatten()
    return wave.index_copy(0, rows, make(rows)) if len(rows) else wave


def cut(samples: Tensor, first: Tensor, length: int) -> Tensor:
    """Return `(*first.shape, length)`: the stretches of `samples` `(N,)` that begin at the places `first`."""
    windows = samples.unfold(0, length, 1)
    if samples.device.type == "cpu":  # copies whole rows: measured, in a fifth of the time
        return windows.index_select(0, first.flatten()).view(*first.shape, length)
    return windows[first]


def inside(first: Tensor, last: Tensor, length: int) -> Tensor:
    """Return `(*first.shape, length)` booleans: true from `first` up to, without, `last`, both in {0, ..., length}."""
    step = torch.arange(-length, length, device=first.device) >= 0
    return cut(step, length - first, length) ^ cut(step, length - last, length)  # faster than comparing places


def pcm_to_wave(pcm: Tensor) -> Tensor:
    """Scale int16 PCM `(B, T)` to float32 in [-1, 1)."""
    return pcm * (1.0 / PCM_SCALE)  # read once, where a conversion and a product would go through memory twice


def to_pcm_scale(wave: Tensor) -> Tensor:
    """Round float32 samples in [-1, 1] to 16-bit integers, held in float64 so that their sums are exact."""
    return (wave * PCM_SCALE).round_().to(torch.float64)
