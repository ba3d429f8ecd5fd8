"""Speed: the word is spoken faster and higher, or slower and lower, as a tape is played."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import PCM_SCALE, Purpose, changed, cut, to_pcm_scale, where_it_happens

Pad = Literal["end", "center"]

BLOCK_SAMPLES = 100
_ZERO_CROSSINGS = 16
_KAISER_BETA = 6.0
_PASSBAND = 0.9
_WEIGHT_SCALE = 1 << 22


class Speed(nn.Module):
    """Play each clip at a whole percentage of its speed, uniform on {100 - max, ..., 100 + max}; its pitch follows.

    Of p percent, 100 samples take the place of p: a band-limited interpolation (Smith and Gossett, "A flexible
    sampling-rate conversion method", ICASSP 1984) whose weights repeat from block to block, so a batch is one product
    of matrices. The kernel is a sinc of 16 zero crossings to each side under a Kaiser window; its passband ends at 0.8
    and its stopband begins at 1.0 of the lower of the two Nyquist frequencies: what a faster clip would fold back is
    about 60 dB down. Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.
    """

    kernels: Tensor

    def __init__(self, *, seed: int, max_percent: int, probability: float, pad: Pad = "end") -> None:
        """`max_percent` below 100. `pad`: what becomes shorter or longer is filled up or cropped here, as clips are."""
        super().__init__()
        self.seed, self.max_percent, self.probability = seed, max_percent, probability
        self.pad: Pad = pad
        percent = np.arange(100 - max_percent, 100 + max_percent + 1)
        self.reach = int(np.ceil(_ZERO_CROSSINGS / _cutoff(percent.max())))
        kernels = np.stack([_kernel(int(one), int(percent.max()), self.reach) for one in percent])
        self.register_buffer("kernels", torch.from_numpy(kernels), persistent=False)

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Play `wave` `(B, T)` at speeds keyed by `draws` `(B,)`; same shape, clamped to [-1, 1]."""
        if self.max_percent == 0 or self.probability == 0:
            return wave
        happens, percent = self._drawn(draws)
        return changed(wave, happens, lambda rows: self._played(wave[rows], percent[rows]))

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the speed of each draw."""
        happens, percent = self._drawn(draws)
        return {"speed_percent": where_it_happens(happens, percent)}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        chance, place = keyed.uniforms(self.seed, Purpose.SPEED, draws, 2).unbind(1)
        percent = 100 - self.max_percent + (place * (2 * self.max_percent + 1)).long()
        return (chance < self.probability) & (percent != 100), percent

    def _played(self, wave: Tensor, percent: Tensor) -> Tensor:
        samples, length = wave.shape[1], self.kernels.shape[1]
        first = block_starts(percent, samples, BLOCK_SAMPLES, self.pad) - self.reach
        blocks = cut_padded(to_pcm_scale(wave), first, length, self.max_percent)
        played = torch.bmm(blocks, self.kernels[percent - (100 - self.max_percent)]).view(len(wave), -1)[:, :samples]
        return (played * (1.0 / (_WEIGHT_SCALE * PCM_SCALE))).to(torch.float32).clamp_(-1.0, 1.0)


def block_starts(percent: Tensor, samples: int, block_samples: int, pad: Pad) -> Tensor:
    """Return `(B, blocks)` int64: where in the clip each output block of `block_samples` is taken from.

    At `percent` of the speed, the n-th sample is taken from `fixed + (n - fixed) * percent / 100`; what is `fixed` is
    the beginning, or, if clips are padded on both sides, the middle.
    """
    fixed = samples // 200 * 100 if pad == "center" else 0  # a multiple of 100, so that all places are whole
    blocks = torch.arange(-(-samples // block_samples), device=percent.device)
    return fixed // 100 * (100 - percent[:, None]) + blocks * block_samples * percent[:, None] // 100


def cut_padded(wave: Tensor, first: Tensor, length: int, max_percent: int) -> Tensor:
    """Return `(B, blocks, length)`: the stretches of each row of `wave` `(B, T)` that begin at `first` `(B, blocks)`.

    Beyond the clip there are zeros: as many as speeds of up to `100 + max_percent` can ask for.
    """
    beyond = wave.shape[1] * max_percent // 100 + 2 * length
    padded = nn.functional.pad(wave, (beyond, beyond))
    row = torch.arange(len(wave), device=wave.device)[:, None] * padded.shape[1]
    return cut(padded.view(-1), row + beyond + first, length)


def _cutoff(percent: NDArray[np.integer] | int) -> float:
    """Return where the kernel has fallen to one half, as a share of the clip's Nyquist frequency."""
    return float(_PASSBAND * min(1.0, 100 / percent))


def _kernel(percent: int, max_percent: int, reach: int) -> NDArray[np.float64]:
    """Return `(max_percent + 2 * reach, 100)`: what 100 samples take of those around their block."""
    taken_from = np.arange(BLOCK_SAMPLES) * percent / 100
    distance = np.arange(-reach, max_percent + reach)[:, None] - taken_from
    crossings = distance * _cutoff(percent)
    inside = np.clip(1.0 - (crossings / _ZERO_CROSSINGS) ** 2, 0.0, None)
    window = np.where(np.abs(crossings) < _ZERO_CROSSINGS, np.i0(_KAISER_BETA * np.sqrt(inside)), 0.0)
    weights = np.sinc(crossings) * window
    return np.rint(weights / weights.sum(axis=0) * _WEIGHT_SCALE)  # integers: see `chance`
