"""Waveforms to features, batched and on the device. torchaudio's transforms are the definition."""

from typing import Any

import torch
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.frontend.feature_settings import FeatureKind, FeatureSettings, check
from kws_dist.frontend.mel import Cepstrum, MelBands
from kws_dist.frontend.normalize import ClipNormalization, DatasetNormalization, Statistics
from kws_dist.frontend.resample import Resample
from kws_dist.frontend.spectrum import Power, ShortTimeSpectrum

_CPU_CHUNK_SAMPLES = 820_000
"""Samples in all frames that a CPU transforms at a time, 16 clips of BC-ResNet's: more would leave the cache."""


class Features(nn.Module):
    """A batch of waveforms `(B, T)` in [-1, 1] -> features `(B, 1, bins, frames)` float32.

    - `logmel`: `log(mel + log_offset)` of a Hann-windowed short-time power spectrum; bins are the mel bands.
    - `mfcc`: the first coefficients of the orthonormal discrete cosine transform (DCT-II) of the log-mels of a frame.
    - `spectrogram`: `log(power + log_offset)` of the Fourier transform's own bins, `fft_samples // 2 + 1` of them,
      evenly spaced from 0 to half the sample rate.
    - `waveform`: the samples themselves, as one bin with a frame for each sample: `(B, 1, 1, T)`. Models of raw audio
      take `features.squeeze(2)`, which is the `(B, 1, T)` of a one-dimensional convolution.

    A clip's features are the same whatever else is in the batch.
    """

    def __init__(
        self, settings: FeatureSettings, *, sample_rate_hz: int = 16_000, statistics: Statistics | None = None
    ) -> None:
        """`sample_rate_hz`: of the waveforms. `statistics`: of the training clips, for `normalize="dataset"`.

        Raises `UsageError` for settings that cannot work.
        """
        super().__init__()
        check(settings, sample_rate_hz)
        self.settings = settings
        self.least_samples, self.overlap = 1, 1.0
        if settings.kind != "waveform":
            window, hop = settings.window_samples(sample_rate_hz), settings.hop_samples(sample_rate_hz)
            self.least_samples = -(-max(window, hop) * sample_rate_hz // settings.rate_hz(sample_rate_hz))
            self.overlap = settings.fft_samples / hop  # of how many frames a sample is a part
        self.stages = nn.Sequential(
            *_resampling(settings, sample_rate_hz),
            *_kind(settings, sample_rate_hz),
            *_normalization(settings, statistics),
        )

    def forward(self, wave: Tensor) -> Tensor:
        """Return `(B, 1, bins, frames)` of `wave` `(B, T)`; always float32, also under autocast."""
        if wave.shape[1] < self.least_samples:
            raise UsageError(
                f"clips of {wave.shape[1]} samples are shorter than --features.window_ms {self.settings.window_ms:g} or"
                f" --features.hop_ms {self.settings.hop_ms:g} ({self.least_samples} samples): choose shorter ones, or a"
                " longer --data.clip_seconds"
            )
        with torch.autocast(wave.device.type, enabled=False):
            wave = wave.float()
            if wave.device.type != "cpu" or wave.shape[0] <= self.cpu_chunk_clips(wave.shape[1]):
                # As `cat` lays it out: a sum over other strides is rounded otherwise.
                return self.stages(wave).contiguous().unsqueeze(1)
            chunks = wave.split(self.cpu_chunk_clips(wave.shape[1]))
            return torch.cat([self.stages(chunk) for chunk in chunks]).unsqueeze(1)

    def cpu_chunk_clips(self, clip_samples: int) -> int:
        """Return how many clips of this length a CPU takes at a time."""
        return max(int(_CPU_CHUNK_SAMPLES / (clip_samples * self.overlap)), 1)


class LogMel(Features):
    """Log-mel spectrogram: `(B, T)` in [-1, 1] -> `(B, 1, mels, frames)` float32; the defaults are BC-ResNet's."""

    def __init__(self, *, sample_rate_hz: int = 16_000, **settings: Any) -> None:
        """`settings`: any of `FeatureSettings` but the kind."""
        super().__init__(FeatureSettings(kind="logmel", **settings), sample_rate_hz=sample_rate_hz)


def build_features(
    kind: FeatureKind, *, sample_rate_hz: int = 16_000, statistics: Statistics | None = None, **settings: Any
) -> Features:
    """Build the features of the given kind; `settings` are the other fields of `FeatureSettings`."""
    return Features(FeatureSettings(kind=kind, **settings), sample_rate_hz=sample_rate_hz, statistics=statistics)


def _resampling(settings: FeatureSettings, sample_rate_hz: int) -> list[nn.Module]:
    rate_hz = settings.rate_hz(sample_rate_hz)
    return [] if rate_hz == sample_rate_hz else [Resample(sample_rate_hz, rate_hz)]


def _kind(settings: FeatureSettings, sample_rate_hz: int) -> list[nn.Module]:
    """Return the stages from a waveform `(B, T)` to `(B, bins, frames)`."""
    if settings.kind == "waveform":
        return [nn.Unflatten(1, (1, -1))]
    spectrum = ShortTimeSpectrum(
        window_samples=settings.window_samples(sample_rate_hz),
        hop_samples=settings.hop_samples(sample_rate_hz),
        fft_samples=settings.fft_samples,
        centered=settings.centered,
        # `auto` is the transform on every device. For BC-ResNet's log-mels it was measured to be 5 to 6 times as fast
        # on two CPU cores. An H200 takes 0.7 us a clip for the product alone (50 MFLOP at 67 TFLOP/s, without TF32) and
        # 0.3 us for the whole way by the transform (1.6 MB read and written at 4.8 TB/s).
        dft=settings.spectrum == "dft",
    )
    logarithm = _Log(settings.log_offset)
    if settings.kind == "spectrogram":
        return [spectrum, Power(magnitude=settings.magnitude), logarithm, _BinsFirst()]
    log_mel = [spectrum, MelBands(settings, settings.rate_hz(sample_rate_hz)), logarithm]
    return log_mel if settings.kind == "logmel" else [*log_mel, Cepstrum(settings.coefficients, settings.mels)]


def _normalization(settings: FeatureSettings, statistics: Statistics | None) -> list[nn.Module]:
    if settings.normalize == "none":
        return []
    if settings.normalize == "clip":
        return [ClipNormalization()]
    if statistics is None:
        raise UsageError(
            "--features.normalize dataset needs the statistics of the training clips: see feature_statistics"
        )
    return [DatasetNormalization(statistics, bins=settings.bins)]


class _Log(nn.Module):
    """The logarithm of what it overwrites."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, values: Tensor) -> Tensor:
        return values.add_(self.offset).log_()


class _BinsFirst(nn.Module):
    """`(B, frames, bins)` to `(B, bins, frames)`."""

    def forward(self, values: Tensor) -> Tensor:
        return values.transpose(1, 2)
