"""Waveforms to features, batched and on the device. torchaudio's transforms are the definition."""

from typing import Literal

import torch
from torch import Tensor, nn

from kws_dist.frontend._torchaudio import transforms

FeatureKind = Literal["logmel"]

_CPU_CHUNK_CLIPS = 32
"""On a CPU the spectrogram of more clips than this leaves the cache and costs several times as much a clip."""


class LogMel(nn.Module):
    """Log-mel spectrogram: `(B, T)` float32 in [-1, 1] -> `(B, 1, mels, frames)` float32.

    `log(power mel + log_offset)` of a Hann-windowed short-time Fourier transform with centred frames, so
    `frames = T // hop + 1`. The defaults are the front end of BC-ResNet (Kim et al., 2021, arXiv 2106.04140,
    section 4.1): 40 mels, 30 ms windows each 10 ms, FFT of 512.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 16_000,
        mels: int = 40,
        window_ms: float = 30.0,
        hop_ms: float = 10.0,
        fft_samples: int = 512,
        min_hz: float = 0.0,
        max_hz: float = 8_000.0,
        log_offset: float = 1e-6,
    ) -> None:
        super().__init__()
        self.log_offset = log_offset
        # Complex spectrum and filter bank apart: squaring the two parts costs half of torchaudio's `abs().pow(2)`.
        self.spectrogram = transforms.Spectrogram(
            n_fft=fft_samples,
            win_length=round(window_ms * sample_rate_hz / 1000),
            hop_length=round(hop_ms * sample_rate_hz / 1000),
            power=None,
        )
        self.mel_scale = transforms.MelScale(
            n_mels=mels,
            sample_rate=sample_rate_hz,
            f_min=min_hz,
            f_max=max_hz,
            n_stft=fft_samples // 2 + 1,
        )

    def forward(self, wave: Tensor) -> Tensor:
        """Return `(B, 1, mels, frames)` of `wave` `(B, T)`; always float32, also under autocast."""
        with torch.autocast(wave.device.type, enabled=False):
            if wave.device.type != "cpu" or len(wave) <= _CPU_CHUNK_CLIPS:
                # As `cat` lays it out: a sum over other strides is rounded otherwise.
                return self._log_mel(wave).contiguous()
            return torch.cat([self._log_mel(chunk) for chunk in wave.split(_CPU_CHUNK_CLIPS)])

    def _log_mel(self, wave: Tensor) -> Tensor:
        real, imaginary = torch.view_as_real(self.spectrogram(wave.float())).unbind(-1)
        power = real.square() + imaginary.square()
        return torch.log(self.mel_scale(power) + self.log_offset).unsqueeze(1)


def build_features(kind: FeatureKind, **params: float) -> nn.Module:
    """Build the front end of the given kind; `params` are the keyword arguments of its class."""
    assert kind == "logmel", kind
    return LogMel(**params)  # pyright: ignore[reportArgumentType]
