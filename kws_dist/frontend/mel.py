"""Spectra to mel bands, and log-mels to cepstral coefficients, as matrix products."""

import torch
from torch import Tensor, nn

from kws_dist.frontend._torchaudio import functional
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.precise import matmul
from kws_dist.frontend.spectrum import Power

_GROUP_BANDS = 8
"""Bands that go together into a product: more have more zeros in it, fewer fill a CPU's registers worse."""


class MelBands(nn.Module):
    """Parts of spectra `(B, frames, 2 x bins)`, which it overwrites, to mel bands `(B, mels, frames)`.

    The filter bank is torchaudio's. A band has few bins, so that most of the bank is zeros: a group of neighbouring
    bands is a product with the bins of that group alone. Every clip is a product of its own, of one shape whatever the
    batch, and comes out with the bins first: as models take it.
    """

    def __init__(self, settings: FeatureSettings, rate_hz: int) -> None:
        super().__init__()
        bank = functional.melscale_fbanks(
            n_freqs=settings.fft_samples // 2 + 1,
            f_min=settings.min_hz,
            f_max=settings.max_hz,
            n_mels=settings.mels,
            sample_rate=rate_hz,
            norm="slaney" if settings.mel_scale == "slaney" else None,
            mel_scale=settings.mel_scale,
        ).T
        self.magnitude = Power(magnitude=True) if settings.magnitude else None
        if self.magnitude is None:
            # The squares of the two parts of a bin count alike: adding them up first would take longer.
            bank = bank.repeat_interleave(2, dim=1)
        self.inputs = list[slice]()
        for number, group in enumerate(bank.split(_GROUP_BANDS)):
            used = group.any(dim=0).nonzero().flatten().tolist() or [0]
            self.inputs.append(slice(used[0], used[-1] + 1))
            self.register_buffer(f"weights_{number}", group[:, self.inputs[-1]].contiguous(), persistent=False)

    def forward(self, parts: Tensor) -> Tensor:
        """Return the power of each band, or the sum of its magnitudes."""
        values = parts.square_() if self.magnitude is None else self.magnitude(parts)
        groups = [
            matmul(weights.expand(values.shape[0], -1, -1), values[..., some].transpose(1, 2))
            for some, weights in zip(self.inputs, self.buffers(recurse=False), strict=True)
        ]
        return torch.cat(groups, dim=1)


class Cepstrum(nn.Module):
    """Log-mels `(B, mels, frames)` to cepstral coefficients `(B, coefficients, frames)`: DCT-II, orthonormal."""

    matrix: Tensor

    def __init__(self, coefficients: int, mels: int) -> None:
        super().__init__()
        matrix = functional.create_dct(coefficients, mels, norm="ortho").T
        self.register_buffer("matrix", matrix.contiguous(), persistent=False)

    def forward(self, log_mels: Tensor) -> Tensor:
        """Return the first coefficients of each frame."""
        return matmul(self.matrix.expand(log_mels.shape[0], -1, -1), log_mels)
