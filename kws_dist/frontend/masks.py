"""Masks: parts of the features, or of the waveform, are taken away."""

from functools import reduce

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import Purpose, inside, where_it_happens


class SpecAugment(nn.Module):
    """Overwrite random bands of frames and of mels, and random rectangles, with the clip's mean feature value.

    Bands are SpecAugment's (Park et al., 2019, arXiv 1904.08779, section 2) without time warping; rectangles are
    cutout (DeVries and Taylor, 2017, arXiv 1708.04552), which MatchboxNet adds (arXiv 2004.08531, section 4.1).
    """

    def __init__(
        self,
        *,
        seed: int,
        time_masks: int = 0,
        max_time_frames: int = 0,
        frequency_masks: int = 0,
        max_frequency_bins: int = 0,
        rectangles: int = 0,
        max_rectangle_frames: int = 0,
        max_rectangle_bins: int = 0,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.bands = ((Purpose.TIME_MASK, -1, time_masks, max_time_frames),
                      (Purpose.FREQUENCY_MASK, -2, frequency_masks, max_frequency_bins))  # fmt: skip
        self.rectangles = rectangles if max_rectangle_frames and max_rectangle_bins else 0
        self.max_rectangle_frames, self.max_rectangle_bins = max_rectangle_frames, max_rectangle_bins
        self.is_off = not (time_masks * max_time_frames or frequency_masks * max_frequency_bins or self.rectangles)

    def forward(self, features: Tensor, draws: Tensor) -> Tensor:
        """Mask `features` `(B, 1, bins, frames)`; widths are uniform on {0, ..., max}."""
        fill = features.mean(dim=(1, 2, 3), keepdim=True)
        for purpose, dim, count, max_width in self.bands:
            if count and max_width:
                uniforms = keyed.uniforms(self.seed, purpose, draws, 2 * count)
                mask = _bands(uniforms, features.shape[dim], max_width).any(dim=1)
                shape = [len(draws), 1, 1, 1]
                shape[dim] = features.shape[dim]
                features = torch.where(mask.view(shape), fill, features)
        if self.rectangles:
            across, along = keyed.uniforms(self.seed, Purpose.RECTANGLE, draws, 4 * self.rectangles).chunk(2, dim=1)
            bins = _bands(across, features.shape[2], self.max_rectangle_bins)
            frames = _bands(along, features.shape[3], self.max_rectangle_frames)
            mask = (bins[..., None] & frames[:, :, None]).any(dim=1, keepdim=True)
            features = torch.where(mask, fill, features)
        return features

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the widths of the bands of each draw, where the features are at least as wide."""
        named = zip(("time_mask_frames", "frequency_mask_bins"), self.bands, strict=True)
        return {
            name: _widths(keyed.uniforms(self.seed, purpose, draws, 2 * count), max_width).float()
            for name, (purpose, _, count, max_width) in named
            if count and max_width
        }


class DropChunks(nn.Module):
    """Replace random stretches of each clip by zeros, as a bad connection does; widths are uniform on {0, ..., max}.

    Ravanelli et al., "SpeechBrain", arXiv 2106.04624: time-domain chunk dropping.
    """

    def __init__(self, *, seed: int, chunks: int, max_samples: int, probability: float) -> None:
        super().__init__()
        self.seed, self.chunks, self.max_samples, self.probability = seed, chunks, max_samples, probability

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Drop chunks of `wave` `(B, T)`; same shape."""
        if self.chunks == 0 or self.max_samples == 0 or self.probability == 0:
            return wave
        happens, uniforms = self._drawn(draws)
        chunks = _bands(uniforms, wave.shape[1], self.max_samples).unbind(1)
        return wave.masked_fill(reduce(torch.bitwise_or, chunks) & happens[:, None], 0.0)

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the widths of the chunks of each draw, where the clip is at least as long."""
        happens, uniforms = self._drawn(draws)
        return {"dropped_samples": where_it_happens(happens[:, None], _widths(uniforms, self.max_samples))}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        uniforms = keyed.uniforms(self.seed, Purpose.DROP, draws, 1 + 2 * self.chunks)
        return uniforms[:, 0] < self.probability, uniforms[:, 1:]


def _bands(uniforms: Tensor, size: int, max_width: int) -> Tensor:
    """Return `(B, count, size)` booleans: inside each of the bands that `uniforms` `(B, 2 * count)` draw."""
    width = _widths(uniforms, min(max_width, size))
    start = (uniforms.chunk(2, dim=1)[1] * (size - width + 1)).long()
    return inside(start, start + width, size)


def _widths(uniforms: Tensor, max_width: int) -> Tensor:
    return (uniforms.chunk(2, dim=1)[0] * (max_width + 1)).long()
