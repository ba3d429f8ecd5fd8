"""From settings to data: the stores of each split, the sampler, and the front ends."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from kws_dist.config import AugmentConfig, Config, DataConfig, FeaturesConfig
from kws_dist.data.store import ClipPolicy, Store, open_store, read_noise
from kws_dist.errors import UsageError
from kws_dist.frontend.augment import BackgroundNoise, SpecAugment, TimeShift
from kws_dist.frontend.features import build_features
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.shards.read import Dataset, open_dataset


@dataclass(frozen=True)
class Data:
    """A dataset opened for training or evaluation."""

    dataset: Dataset
    stores: dict[str, Store]
    """By split."""

    @property
    def skipped_keys(self) -> list[str]:
        """Damaged clips that were left out."""
        return [key for store in self.stores.values() for key in store.skipped_keys]


def open_data(config: DataConfig, device: torch.device, splits: tuple[str, ...]) -> Data:
    """Open the shards and load the clips of the splits that exist."""
    if not config.shards:
        raise UsageError("--data.shards is missing: name a folder that tools/make_shards.py made")
    dataset = open_dataset(Path(config.shards), check_sizes=config.on_bad_clip != "skip")
    policy = ClipPolicy(
        clip_samples=round(config.clip_seconds * dataset.sample_rate_hz),
        pad=config.pad,
        long=config.long,
        on_bad_clip=config.on_bad_clip,
    )
    wanted = [split for split in splits if split in dataset.splits]
    stores = {
        split: open_store(dataset.rows(split), policy, residency=config.residency, device=device) for split in wanted
    }
    return Data(dataset, stores)


def evaluation_front_end(features: FeaturesConfig, sample_rate_hz: int) -> FrontEnd:
    """Build the front end without augmentation."""
    return FrontEnd(_features(features, sample_rate_hz))


def training_front_end(config: Config, dataset: Dataset) -> FrontEnd:
    """Build the front end with the augmentation that the settings ask for."""
    augment, rate_hz = config.augment, dataset.sample_rate_hz
    clip_samples = round(config.data.clip_seconds * rate_hz)
    return FrontEnd(
        _features(config.features, rate_hz),
        wave_augment=(
            TimeShift(
                seed=config.seed,
                max_samples=min(round(augment.shift_ms * rate_hz / 1000), clip_samples),
                probability=augment.shift_probability,
            ),
            BackgroundNoise(
                read_noise(dataset.rows("noise")),
                seed=config.seed,
                clip_samples=clip_samples,
                max_amplitude=augment.noise_amplitude,
                probability=augment.noise_probability,
            ),
        ),
        feature_augment=(_spec_augment(augment, config.seed),),
    )


def _spec_augment(augment: AugmentConfig, seed: int) -> SpecAugment:
    return SpecAugment(
        seed=seed,
        time_masks=augment.time_masks,
        max_time_frames=augment.time_mask_frames,
        frequency_masks=augment.frequency_masks,
        max_frequency_bins=augment.frequency_mask_bins,
    )


def _features(features: FeaturesConfig, sample_rate_hz: int) -> nn.Module:
    return build_features(**asdict(features), sample_rate_hz=sample_rate_hz)
