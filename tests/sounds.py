"""Waveforms to try features on, and torchaudio's features of them, which are the definition."""

import io
import math
import tarfile
from pathlib import Path

import soundfile
import torch
from torch import Tensor, nn

from kws_dist.frontend._torchaudio import functional, transforms
from kws_dist.frontend.feature_settings import FeatureSettings

SAMPLES = 16_000


def sounds() -> Tensor:
    """Clips of one second that differ in kind, `(10, 16000)`."""
    torch.manual_seed(0)
    time = torch.arange(SAMPLES) / SAMPLES
    wave = torch.randn(10, SAMPLES) * 0.1
    wave[1] = torch.randn(SAMPLES).clamp(-1, 1)
    wave[2] *= 1e-3
    wave[3] = 0.5 * torch.sin(2 * math.pi * 440 * time)
    wave[4] = 0.9 * torch.sin(2 * math.pi * (200 + 3000 * time) * time)
    wave[5], wave[5, 8000] = 0.0, 1.0
    wave[6] = 0.0
    wave[7, 8000:] = 0.0
    wave[8] = (30 * wave[4]).clamp(-1, 1)
    wave[9] = 1.0
    return wave


def speech(real_data: Path, clips: int) -> Tensor:
    """The first recordings of one second in the real archive, `(clips, 16000)`."""
    waves = list[Tensor]()
    with tarfile.open(real_data / "speech_commands_real10.tar.gz") as archive:
        for member in archive:
            if member.name.endswith(".wav") and "_background_noise_" not in member.name:
                file = archive.extractfile(member)
                assert file is not None
                samples, _ = soundfile.read(io.BytesIO(file.read()), dtype="float32")
                if len(samples) == SAMPLES:
                    waves.append(torch.from_numpy(samples))
            if len(waves) == clips:
                break
    return torch.stack(waves)


def torchaudios(wave: Tensor, settings: FeatureSettings, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what torchaudio's transforms make of `(B, T)` at 16 kHz, `(B, 1, bins, frames)`, not normalised.

    `dtype`: of the arithmetic; window and matrices are those that torchaudio makes in float32.
    """
    wave = wave.to(dtype)
    if settings.resample_hz:
        wave = transforms.Resample(SAMPLES, settings.resample_hz).to(dtype)(wave)
    if settings.kind == "waveform":
        return wave[:, None, None]
    window = settings.window_samples(SAMPLES)
    if not settings.centered:
        # torch.stft lets frame i begin with the zeros around its window, not with the window itself.
        idle = settings.fft_samples - window
        wave = nn.functional.pad(wave, (idle // 2, idle - idle // 2))
    spectrogram = transforms.Spectrogram(
        n_fft=settings.fft_samples,
        win_length=window,
        hop_length=settings.hop_samples(SAMPLES),
        power=1.0 if settings.magnitude else 2.0,
        center=settings.centered,
    )
    power = spectrogram.to(dtype)(wave)
    if settings.kind != "spectrogram":
        slaney = settings.mel_scale == "slaney"
        mel_scale = transforms.MelScale(
            n_mels=settings.mels,
            sample_rate=settings.resample_hz or SAMPLES,
            f_min=settings.min_hz,
            f_max=settings.max_hz,
            n_stft=settings.fft_samples // 2 + 1,
            norm="slaney" if slaney else None,
            mel_scale=settings.mel_scale,
        )
        power = mel_scale.to(dtype)(power)
    logarithm = torch.log(power + settings.log_offset)
    if settings.kind == "mfcc":
        matrix = functional.create_dct(settings.coefficients, settings.mels, norm="ortho").to(dtype)
        logarithm = torch.matmul(logarithm.transpose(1, 2), matrix).transpose(1, 2)
    return logarithm[:, None]
