"""The settings of the augmentation, beside what they are about; `kws_dist.config` makes them a part of a run's."""

import math
from dataclasses import dataclass, fields

from kws_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """What is done to training clips, in this order. Every random number is a function of the seed and the draw number.

    Defaults: the recipe of BC-ResNet (arXiv 2106.04140, section 4.1, and its published code), but that each clip is
    shifted and mixed with noise by a coin each, where one decides on both there, that masks are filled with the clip's
    mean, where there it is with zeros (which are loud among log-mels), and that its smallest has no masks.
    """

    speed_percent: int = 0
    """Speed, and pitch with it, changes by up to so many per cent either way; 0 is off."""
    speed_probability: float = 1.0
    """Share of clips whose speed changes."""
    tempo_percent: int = 0
    """Tempo changes by up to so many per cent either way, at the same pitch; 0 is off."""
    tempo_probability: float = 1.0
    """Share of clips whose tempo changes."""
    shift_ms: float = 100.0
    """Largest time shift to either side; 0 is off."""
    shift_probability: float = 0.8
    """Share of clips that are shifted."""
    reverb_folder: str = ""
    """Folder of room impulse responses (WAV, FLAC, ...), any of which a clip is heard through; empty is off."""
    reverb_probability: float = 0.5
    """Share of clips that are heard in a room."""
    mixup_probability: float = 0.0
    """Share of clips that are added to another, as are their labels."""
    mixup_alpha: float = 1.0
    """Shares in a mix-up are drawn from Beta(this, this): 1 is uniform, less is mostly one of the two."""
    cutmix_probability: float = 0.0
    """Share of clips of which a stretch is replaced by that of another, with as much of the label."""
    snr_noise_probability: float = 0.0
    """Share of clips that get background noise at a signal-to-noise ratio."""
    snr_noise_min_db: float = 0.0
    """Lowest signal-to-noise ratio."""
    snr_noise_max_db: float = 15.0
    """Highest signal-to-noise ratio."""
    noise_amplitude: float = 0.1
    """Background noise is scaled by U(0, this); 0 is off."""
    noise_probability: float = 0.8
    """Share of clips that get background noise."""
    gain_min_db: float = 0.0
    """Lowest gain; off where both are 0."""
    gain_max_db: float = 0.0
    """Highest gain."""
    gain_probability: float = 1.0
    """Share of clips that are made louder or fainter."""
    white_noise_probability: float = 0.0
    """Share of clips that get white noise."""
    white_noise_min_db: float = -90.0
    """Lowest level of white noise, to full scale."""
    white_noise_max_db: float = -46.0
    """Highest level of white noise."""
    drop_chunks: int = 0
    """Stretches of a clip that are replaced by zeros; 0 is off."""
    drop_ms: float = 50.0
    """Longest of them."""
    drop_probability: float = 1.0
    """Share of clips that lose stretches."""
    time_masks: int = 2
    """Masked bands of frames per clip."""
    time_mask_frames: int = 20
    """Widest band of masked frames; 0 is off."""
    frequency_masks: int = 2
    """Masked bands of mels per clip."""
    frequency_mask_bins: int = 0
    """Widest band of masked mels; 0 is off."""
    rectangle_masks: int = 0
    """Masked rectangles per clip; 0 is off."""
    rectangle_frames: int = 25
    """Longest masked rectangle."""
    rectangle_bins: int = 15
    """Highest masked rectangle."""


def check(settings: AugmentSettings) -> None:
    """Raise `UsageError` for a setting that cannot be."""
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if name.endswith("_probability") and not 0.0 <= value <= 1.0:
            raise UsageError(f"--augment.{name} {value} is outside [0, 1]")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--augment.{name} {value} should be a finite number")
        if name.endswith("_db") and abs(value) > _MOST_DB:
            raise UsageError(f"--augment.{name} {value} should be from -{_MOST_DB} to {_MOST_DB}")
        if isinstance(value, (int, float)) and not name.endswith("_db") and value < 0:
            raise UsageError(f"--augment.{name} {value} should be 0 or more")
        if name.endswith("_percent") and value > _MOST_PERCENT:
            raise UsageError(f"--augment.{name} {value} should be at most {_MOST_PERCENT}")
    for lowest, highest in _RANGES:
        low, high = getattr(settings, lowest), getattr(settings, highest)
        if low > high:
            raise UsageError(f"--augment.{lowest} {low} is above --augment.{highest} {high}")
    if settings.mixup_alpha <= 0:
        raise UsageError(f"--augment.mixup_alpha {settings.mixup_alpha} should be above 0; 1 is uniform")
    if settings.mixup_probability + settings.cutmix_probability > 1:
        raise UsageError(
            f"--augment.mixup_probability {settings.mixup_probability} and --augment.cutmix_probability"
            f" {settings.cutmix_probability} add up to more than 1: a clip gets one of the two or none"
        )


_MOST_PERCENT = 50
_MOST_DB = 120
_RANGES = (
    ("snr_noise_min_db", "snr_noise_max_db"),
    ("gain_min_db", "gain_max_db"),
    ("white_noise_min_db", "white_noise_max_db"),
)
