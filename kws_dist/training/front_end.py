"""From settings to front ends: with the augmentation of training, or without any."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kws_dist.assemble import features_of
from kws_dist.config import Config, FeaturesConfig
from kws_dist.corpus.clip import SILENCE_WORD
from kws_dist.corpus.silence import CLIP_SAMPLES
from kws_dist.data.sampler import Sampler
from kws_dist.frontend.augment import Sounds, feature_augmentation, pcm_to_wave, wave_augmentation
from kws_dist.frontend.noise import DrawnSilence, NoiseBank
from kws_dist.frontend.normalize import Statistics, feature_statistics
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.room_responses import read_responses
from kws_dist.training.data import Data
from kws_dist.training.teaching import Lesson

_STATISTICS_DRAWS = 20_000
_STATISTICS_BATCH = 256


def evaluation_front_end(
    features: FeaturesConfig, sample_rate_hz: int, statistics: Statistics | None = None
) -> FrontEnd:
    """Build the front end without augmentation. `statistics`: see `training_statistics`."""
    return FrontEnd(features_of(features, sample_rate_hz, statistics))


def training_front_end(
    config: Config, data: Data, statistics: Statistics | None = None, lesson: Lesson | None = None
) -> FrontEnd:
    """Build the front end with the augmentation that the settings ask for. `lesson`: with a teacher's features."""
    augment, rate_hz, pad = config.augment, data.dataset.sample_rate_hz, config.data.pad
    clip_samples = round(config.data.clip_seconds * rate_hz)
    noise = NoiseBank(data.noise, clip_samples=clip_samples)
    responses = []
    if augment.reverb_folder:
        responses = read_responses(Path(augment.reverb_folder), sample_rate_hz=rate_hz, most_samples=clip_samples)
    sounds = Sounds(noise=noise, silence=_drawn_silence(config, data, noise), responses=responses)
    return FrontEnd(
        features_of(config.features, rate_hz, statistics),
        wave_augment=wave_augmentation(augment, sounds, seed=config.seed, sample_rate_hz=rate_hz, pad=pad),
        feature_augment=feature_augmentation(augment, seed=config.seed),
        teacher_features=lesson.features if lesson else None,
    )


def training_statistics(config: Config, data: Data, sampler: Sampler, device: torch.device) -> Statistics | None:
    """Return what `--features.normalize dataset` needs, None for any other.

    Mean and deviation of each feature bin over the first 20,000 draws of training at most, without augmentation.
    """
    if config.features.normalize != "dataset":
        return None
    store, rate_hz = data.stores["train"], data.dataset.sample_rate_hz
    plain = features_of(replace(config.features, normalize="none"), rate_hz, None).to(device)

    drawn = sampler.draws(np.arange(min(len(store.rows), _STATISTICS_DRAWS)))
    clips = drawn.clip[drawn.weight > 0]
    clips = clips[np.argsort(store.rows.shard[clips], kind="stable")]  # so that a stream comes to each shard once

    def waves() -> Iterator[Tensor]:
        for first in range(0, len(clips), _STATISTICS_BATCH):
            yield pcm_to_wave(store.gather(clips[first : first + _STATISTICS_BATCH]))

    return feature_statistics(plain, waves())


def _drawn_silence(config: Config, data: Data, noise: NoiseBank) -> DrawnSilence | None:
    """Return what draws the silence of the 12-class rule anew; none for recordings of silence that a user made."""
    words, by_rule = data.dataset.words, data.dataset.meta["source"].get("silence", False)
    if not by_rule or SILENCE_WORD not in words:
        return None
    stored = min(CLIP_SAMPLES, noise.clip_samples)
    first = (noise.clip_samples - stored) // 2 if config.data.pad == "center" else 0
    label, heard = words.index(SILENCE_WORD), range(first, first + stored)
    return DrawnSilence(noise, seed=config.seed, silence_label=label, heard=heard)
