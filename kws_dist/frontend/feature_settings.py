"""The settings of the features, beside what they are about; `kws_dist.config` makes them a part of a run's."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from kws_dist.errors import UsageError

_MOST_FFT_SAMPLES = 1 << 16

FeatureKind = Literal["logmel", "mfcc", "spectrogram", "waveform"]
MelScale = Literal["htk", "slaney"]
Normalization = Literal["none", "clip", "dataset"]
SpectrumMethod = Literal["auto", "fft", "dft"]


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What a model sees of a waveform. Defaults: BC-ResNet (arXiv 2106.04140, section 4.1)."""

    kind: FeatureKind = "logmel"
    """Log-mel spectrogram, MFCC, log spectrogram (of the Fourier transform's own bins), or the waveform itself."""
    mels: int = 40
    """Mel bands (logmel, mfcc)."""
    coefficients: int = 40
    """Cepstral coefficients that are kept (mfcc)."""
    window_ms: float = 30.0
    """Length of the Hann window."""
    hop_ms: float = 10.0
    """Time from one frame to the next."""
    fft_samples: int = 512
    """Length of the Fourier transform; a shorter window is padded with zeros."""
    min_hz: float = 0.0
    """Lower edge of the lowest mel band."""
    max_hz: float = 8_000.0
    """Upper edge of the highest mel band."""
    mel_scale: MelScale = "htk"
    """Where mel bands lie: evenly on HTK's scale, or as librosa's, on Slaney's scale with bands of equal area."""
    magnitude: bool = False
    """Bands are sums of magnitudes, and not of powers."""
    log_offset: float = 1e-6
    """Added before the logarithm."""
    centered: bool = True
    """Frames are centred on every hop, and the clip is mirrored at its ends; else they start there and lie inside."""
    resample_hz: int = 0
    """Clips are resampled to this rate first; 0 keeps theirs."""
    normalize: Normalization = "none"
    """Mean 0 and deviation 1: of each clip, or of each bin over the training clips (dataset)."""
    spectrum: SpectrumMethod = "auto"
    """By Fourier transform, or as a product of real matrices, which every runtime can do. `auto`: the faster."""

    def rate_hz(self, sample_rate_hz: int) -> int:
        """Return the rate at which clips of `sample_rate_hz` are looked at."""
        return self.resample_hz or sample_rate_hz

    def window_samples(self, sample_rate_hz: int) -> int:
        """Return the length of the window for clips of `sample_rate_hz`, after resampling."""
        return round(self.window_ms * self.rate_hz(sample_rate_hz) / 1000)

    def hop_samples(self, sample_rate_hz: int) -> int:
        """Return the time from one frame to the next for clips of `sample_rate_hz`, after resampling."""
        return round(self.hop_ms * self.rate_hz(sample_rate_hz) / 1000)

    def frames(self, clip_samples: int, sample_rate_hz: int) -> int:
        """Return the number of frames of a clip of `clip_samples` at `sample_rate_hz`; samples, for `waveform`."""
        samples = -(-clip_samples * self.rate_hz(sample_rate_hz) // sample_rate_hz)
        if self.kind == "waveform":
            return samples
        inside = samples if self.centered else samples - self.window_samples(sample_rate_hz)
        return inside // self.hop_samples(sample_rate_hz) + 1

    @property
    def bins(self) -> int:
        """Return the number of feature bins."""
        return {
            "logmel": self.mels,
            "mfcc": self.coefficients,
            "spectrogram": self.fft_samples // 2 + 1,
            "waveform": 1,
        }[self.kind]


def check(settings: FeatureSettings, sample_rate_hz: int) -> None:
    """Raise `UsageError` where the settings cannot work with clips of `sample_rate_hz`."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--features.{field.name} {value} should be a finite number")
    if settings.fft_samples > _MOST_FFT_SAMPLES:
        raise UsageError(f"--features.fft_samples {settings.fft_samples} should be at most {_MOST_FFT_SAMPLES}")
    if settings.resample_hz < 0:
        raise UsageError(f"--features.resample_hz {settings.resample_hz} should be 0, for no change, or more")
    if settings.kind == "waveform":
        return
    _check_frames(settings, sample_rate_hz)
    if settings.kind != "spectrogram":
        _check_mels(settings, settings.rate_hz(sample_rate_hz))


def _check_frames(settings: FeatureSettings, sample_rate_hz: int) -> None:
    window, fft = settings.window_samples(sample_rate_hz), settings.fft_samples
    rate_hz = settings.rate_hz(sample_rate_hz)
    if window < 2:
        raise UsageError(f"--features.window_ms {settings.window_ms:g} is {window} samples at {rate_hz} Hz: take more")
    if settings.hop_samples(sample_rate_hz) < 1:
        raise UsageError(f"--features.hop_ms {settings.hop_ms:g} is less than a sample at {rate_hz} Hz: take more")
    if window > fft or fft % 2:
        raise UsageError(
            f"--features.fft_samples {fft} should be even, and no less than the window: --features.window_ms"
            f" {settings.window_ms:g} is {window} samples at {rate_hz} Hz; take {1 << (window - 1).bit_length()}"
        )
    if settings.log_offset <= 0:
        raise UsageError(
            f"--features.log_offset {settings.log_offset:g} should be above 0: silence has no logarithm; take 1e-6"
        )


def _check_mels(settings: FeatureSettings, rate_hz: int) -> None:
    if settings.mels < 1:
        raise UsageError(f"--features.mels {settings.mels} should be 1 or more")
    if settings.kind == "mfcc" and not 1 <= settings.coefficients <= settings.mels:
        raise UsageError(
            f"--features.coefficients {settings.coefficients} should be from 1 to --features.mels {settings.mels},"
            " of which they are made"
        )
    if not 0 <= settings.min_hz < settings.max_hz <= rate_hz / 2:
        raise UsageError(
            f"--features.min_hz {settings.min_hz:g} and --features.max_hz {settings.max_hz:g} should be from 0 to"
            f" {rate_hz / 2:g}, half the sample rate, and the first be the lower"
        )
