"""Waveforms to short-time spectra, by Fourier transform or as a product of real matrices."""

import math

import torch
from torch import Tensor, nn

from kws_dist.frontend.precise import matmul


class ShortTimeSpectrum(nn.Module):
    """Hann-windowed frames and their Fourier transforms: `(B, T)` -> `(B, frames, 2 x bins)`, bins = fft // 2 + 1.

    Real and imaginary parts take turns: what follows is real-valued whichever way the spectrum was made, and squares
    them in place. Frames, window and rounding are those of `torch.stft`, which torchaudio's transforms use; only the
    layout is not: a frame is a row, so nothing is transposed before there are few bins.

    Centred, `frames = T // hop + 1`; else `(T - window) // hop + 1`, and frame i starts with its window at i x hop,
    as in TensorFlow and Kaldi (`torch.stft` would let it start with the zeros around the window).
    """

    window: Tensor
    matrix: Tensor

    def __init__(
        self, *, window_samples: int, hop_samples: int, fft_samples: int, centered: bool = True, dft: bool = False
    ) -> None:
        """`dft`: by matrix product, without complex numbers."""
        super().__init__()
        self.window_samples, self.hop_samples, self.centered, self.dft = window_samples, hop_samples, centered, dft
        self.idle_samples = fft_samples - window_samples  # of a frame, around the window
        window = torch.hann_window(window_samples)
        before = self.idle_samples // 2
        padded = nn.functional.pad(window, (before, self.idle_samples - before))
        self.register_buffer("window", padded, persistent=False)
        if dft:
            self.register_buffer("matrix", dft_matrix(window, fft_samples), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Return the parts `(B, frames, 2 x bins)` of float32 `wave` `(B, T)`, T no less than the window."""
        if self.dft:
            frames = self._extended(wave, idle=0).unfold(1, self.window_samples, self.hop_samples)
            rows = frames.reshape(-1, self.window_samples)
            return matmul(rows, self.matrix).view(*frames.shape[:2], -1)
        frames = self._extended(wave, idle=self.idle_samples).unfold(1, len(self.window), self.hop_samples)
        return torch.view_as_real(torch.fft.rfft(frames * self.window)).flatten(2)

    def _extended(self, wave: Tensor, idle: int) -> Tensor:
        """Add what the first and last frames reach over: the clip mirrored, where centred, and zeros."""
        parts = [wave]
        if self.centered:
            before, after = (self.window_samples + 1) // 2, self.window_samples // 2
            parts = [wave[:, 1 : before + 1].flip(1), wave, wave[:, -after - 1 : -1].flip(1)]
        if idle:
            zeros = wave.new_zeros(wave.shape[0], idle - idle // 2)
            parts = [zeros[:, : idle // 2], *parts, zeros]
        return torch.cat(parts, dim=1)


def dft_matrix(window: Tensor, fft_samples: int) -> Tensor:
    """Return `(window, 2 x bins)` float32: cosines and minus sines in turns, with the window in them."""
    sample = torch.arange(len(window), dtype=torch.float64)
    angle = sample[:, None] * torch.arange(fft_samples // 2 + 1) * (2 * math.pi / fft_samples)
    parts = torch.stack([angle.cos(), -angle.sin()], dim=-1).flatten(1)
    return (parts * window.double()[:, None]).float()


class Power(nn.Module):
    """Parts `(B, frames, 2 x bins)` -> power, or magnitude, `(B, frames, bins)`."""

    def __init__(self, *, magnitude: bool) -> None:
        super().__init__()
        self.magnitude = magnitude

    def forward(self, parts: Tensor) -> Tensor:
        """Return the squared absolute value of each bin, or its square root."""
        real, imaginary = parts[..., 0::2], parts[..., 1::2]
        power = torch.addcmul(real.square(), imaginary, imaginary)
        return power.sqrt_() if self.magnitude else power
