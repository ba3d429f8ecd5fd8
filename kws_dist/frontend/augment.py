"""Augmentation as batched tensor code; the randomness of draw t is a pure function of (seed, t).

Nothing here keeps a state or asks for a batch's place in the run, so the same draw sounds the same on any rank,
in any batch, on any device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kws_dist.frontend.augment_settings import AugmentSettings, check
from kws_dist.frontend.chance import Purpose as Purpose
from kws_dist.frontend.chance import pcm_to_wave as pcm_to_wave
from kws_dist.frontend.gain import Gain
from kws_dist.frontend.masks import DropChunks, SpecAugment
from kws_dist.frontend.mix import Mix
from kws_dist.frontend.noise import BackgroundNoise, DrawnSilence, NoiseAtSnr, NoiseBank, WhiteNoise
from kws_dist.frontend.reverb import Reverb
from kws_dist.frontend.shift import TimeShift
from kws_dist.frontend.speed import Pad, Speed
from kws_dist.frontend.tempo import Tempo


@dataclass(frozen=True, kw_only=True)
class Sounds:
    """What augmentation is made of, besides the clips."""

    noise: NoiseBank
    """Recordings of background noise."""
    silence: DrawnSilence | None = None
    """What draws the clips of silence anew, if silence is a word of the task."""
    responses: Sequence[Tensor] = ()
    """Room impulse responses, float `(samples,)` each."""


def wave_augmentation(
    settings: AugmentSettings, sounds: Sounds, *, seed: int, sample_rate_hz: int, pad: Pad
) -> tuple[nn.Module, ...]:
    """Return what is done to waveforms, in the order of how a recording comes about; what is off is left out.

    Somebody speaks faster or slower (`Speed`, `Tempo`), sooner or later (`TimeShift`), in a room (`Reverb`) whose echo
    goes on to the end of the clip; or nobody does (`DrawnSilence`). A second clip that came about in the same way is
    mixed in (`Mix`). Then comes the noise of the surroundings (`NoiseAtSnr`, `BackgroundNoise`), the level at which it
    all is recorded (`Gain`), the noise of the recorder (`WhiteNoise`), and what is lost on the way (`DropChunks`).

    `pad` is how clips are filled up to their length. Raises `UsageError` for settings that cannot be.
    """
    check(settings)
    return (
        *_voice(settings, sounds, seed, sample_rate_hz, pad),
        *_mix(settings, seed, sounds.noise.clip_samples),
        *_recording(settings, sounds.noise, seed, sample_rate_hz),
    )


def feature_augmentation(settings: AugmentSettings, *, seed: int) -> tuple[nn.Module, ...]:
    """Return what is done to features."""
    check(settings)
    masks = SpecAugment(
        seed=seed,
        time_masks=settings.time_masks,
        max_time_frames=settings.time_mask_frames,
        frequency_masks=settings.frequency_masks,
        max_frequency_bins=settings.frequency_mask_bins,
        rectangles=settings.rectangle_masks,
        max_rectangle_frames=settings.rectangle_frames,
        max_rectangle_bins=settings.rectangle_bins,
    )
    return () if masks.is_off else (masks,)


def _voice(settings: AugmentSettings, sounds: Sounds, seed: int, sample_rate_hz: int, pad: Pad) -> Iterator[nn.Module]:
    clip_samples = sounds.noise.clip_samples
    if settings.speed_percent and settings.speed_probability:
        yield Speed(seed=seed, max_percent=settings.speed_percent, probability=settings.speed_probability, pad=pad)
    if settings.tempo_percent and settings.tempo_probability:
        yield Tempo(seed=seed, max_percent=settings.tempo_percent, probability=settings.tempo_probability, pad=pad)
    shift_samples = min(_samples(settings.shift_ms, sample_rate_hz), clip_samples)
    if shift_samples and settings.shift_probability:
        yield TimeShift(seed=seed, max_samples=shift_samples, probability=settings.shift_probability)
    if sounds.responses and settings.reverb_probability:
        yield Reverb(sounds.responses, seed=seed, probability=settings.reverb_probability, clip_samples=clip_samples)
    if sounds.silence is not None:
        yield sounds.silence


def _mix(settings: AugmentSettings, seed: int, clip_samples: int) -> Iterator[nn.Module]:
    if settings.mixup_probability or settings.cutmix_probability:
        yield Mix(
            seed=seed,
            clip_samples=clip_samples,
            mixup_probability=settings.mixup_probability,
            mixup_alpha=settings.mixup_alpha,
            cutmix_probability=settings.cutmix_probability,
        )


def _recording(settings: AugmentSettings, noise: NoiseBank, seed: int, sample_rate_hz: int) -> Iterator[nn.Module]:
    if len(noise) and settings.snr_noise_probability:
        yield NoiseAtSnr(
            noise,
            seed=seed,
            min_db=settings.snr_noise_min_db,
            max_db=settings.snr_noise_max_db,
            probability=settings.snr_noise_probability,
        )
    if len(noise) and settings.noise_amplitude and settings.noise_probability:
        yield BackgroundNoise(
            noise, seed=seed, max_amplitude=settings.noise_amplitude, probability=settings.noise_probability
        )
    if (settings.gain_min_db or settings.gain_max_db) and settings.gain_probability:
        yield Gain(
            seed=seed,
            min_db=settings.gain_min_db,
            max_db=settings.gain_max_db,
            probability=settings.gain_probability,
        )
    if settings.white_noise_probability:
        yield WhiteNoise(
            seed=seed,
            min_db=settings.white_noise_min_db,
            max_db=settings.white_noise_max_db,
            probability=settings.white_noise_probability,
            clip_samples=noise.clip_samples,
        )
    drop_samples = _samples(settings.drop_ms, sample_rate_hz)
    if settings.drop_chunks and drop_samples and settings.drop_probability:
        yield DropChunks(
            seed=seed,
            chunks=settings.drop_chunks,
            max_samples=drop_samples,
            probability=settings.drop_probability,
        )


def _samples(ms: float, sample_rate_hz: int) -> int:
    return round(ms * sample_rate_hz / 1000)
