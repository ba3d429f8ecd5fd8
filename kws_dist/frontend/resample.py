"""Change of sampling rate as a matrix product, on the device."""

import math

import torch
from torch import Tensor, nn

from kws_dist.frontend._torchaudio import transforms
from kws_dist.frontend.precise import matmul

_BLOCK_SAMPLES = 160
"""Of input in a block: as long as the filter's reach or longer, or the overlap would be most of the work."""


class Resample(nn.Module):
    """`(B, T)` -> `(B, ceil(T * to / from))`, as torchaudio's `Resample`: a Hann-windowed sinc of 6 zero crossings.

    Every block of output is the same linear function of a stretch of input. The function is asked of torchaudio, by
    resampling unit impulses, and applied to all blocks as one matrix product, which, unlike torchaudio's convolution,
    no setting makes coarser (see `precise`); cuDNN's convolutions round to TF32 unless told otherwise.
    """

    matrix: Tensor

    def __init__(self, from_hz: int, to_hz: int) -> None:
        super().__init__()
        common = math.gcd(from_hz, to_hz)
        self.up, self.down = to_hz // common, from_hz // common
        periods = -(-_BLOCK_SAMPLES // self.down)
        self.block_samples, self.made_samples = periods * self.down, periods * self.up
        reach = transforms.Resample(from_hz, to_hz).width
        margin = -(-reach // self.down)  # in periods, so that output keeps its phase
        self.margin_samples = margin * self.down
        impulses = torch.eye(self.block_samples + 2 * self.margin_samples)
        made = transforms.Resample(from_hz, to_hz)(impulses)
        matrix = made[:, margin * self.up : margin * self.up + self.made_samples]
        self.register_buffer("matrix", matrix.contiguous(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Return float32 `wave` `(B, T)` at the new rate."""
        samples = wave.shape[1]
        blocks = -(-samples // self.block_samples)
        missing = blocks * self.block_samples - samples
        padded = nn.functional.pad(wave, (self.margin_samples, self.margin_samples + missing))
        stretches = padded.unfold(1, len(self.matrix), self.block_samples)
        made = matmul(stretches.reshape(-1, len(self.matrix)), self.matrix).view(wave.shape[0], -1)
        return made[:, : -(-samples * self.up // self.down)]
