"""From settings to data: the stores of each split, the sampler, and the front ends."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kws_dist.config import AugmentConfig, Config, DataConfig, FeaturesConfig
from kws_dist.corpus.clip import SILENCE_WORD
from kws_dist.corpus.silence import CLIP_SAMPLES
from kws_dist.data.store import ClipPolicy, Store, open_store, read_noise
from kws_dist.errors import UsageError
from kws_dist.frontend.augment import BackgroundNoise, DrawnSilence, NoiseBank, SpecAugment, TimeShift
from kws_dist.frontend.features import build_features
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.shards.read import Dataset, open_dataset


@dataclass(frozen=True)
class Data:
    """A dataset opened for training or evaluation."""

    dataset: Dataset
    stores: dict[str, Store]
    """By split."""
    noise: list[torch.Tensor]
    """Noise recordings, int16 `(samples,)` each, for training only."""
    skipped_noise: list[str]
    """Damaged noise recordings that were left out."""

    @property
    def skipped_keys(self) -> list[str]:
        """Damaged clips and noise recordings that were left out."""
        return [key for store in self.stores.values() for key in store.skipped_keys] + self.skipped_noise


def open_data(
    config: DataConfig, device: torch.device, splits: tuple[str, ...], *, words: tuple[str, ...] = ()
) -> Data:
    """Open the shards and load the clips of the splits that exist.

    `words`: the vocabulary of a model, whose numbering the labels are to follow; by default the dataset's own.
    """
    if not config.shards:
        raise UsageError("--data.shards is missing: name a folder that tools/make_shards.py made")
    dataset = open_dataset(Path(config.shards), check_sizes=config.on_bad_clip != "skip")
    policy = ClipPolicy(
        clip_samples=round(config.clip_seconds * dataset.sample_rate_hz),
        pad=config.pad,
        long=config.long,
        on_bad_clip=config.on_bad_clip,
    )
    stores = {}
    for split in splits:
        if split in dataset.splits:
            rows = dataset.rows(split)
            rows = replace(rows, label=match_labels(rows.label, dataset.words, words or dataset.words))
            stores[split] = open_store(rows, policy, residency=config.residency, device=device)
    noise, skipped_noise = read_noise(dataset.rows("noise"), config.on_bad_clip) if "train" in stores else ([], [])
    return Data(dataset, stores, noise, skipped_noise)


def match_labels(labels: NDArray[np.int64], words: tuple[str, ...], model_words: tuple[str, ...]) -> NDArray[np.int64]:
    """Translate labels that number `words` into those that number `model_words`: by word, never by number."""
    spoken = [words[label] for label in np.unique(labels)]
    unknown = [word for word in spoken if word not in model_words]
    if unknown:
        raise UsageError(
            f"the data hold {len(unknown)} words that the model does not know: {', '.join(unknown)};"
            f" it knows {', '.join(model_words)}"
        )
    number = [model_words.index(word) if word in model_words else -1 for word in words]
    return np.array(number, np.int64)[labels]


def evaluation_front_end(features: FeaturesConfig, sample_rate_hz: int) -> FrontEnd:
    """Build the front end without augmentation."""
    return FrontEnd(_features(features, sample_rate_hz))


def training_front_end(config: Config, data: Data) -> FrontEnd:
    """Build the front end with the augmentation that the settings ask for."""
    augment, rate_hz = config.augment, data.dataset.sample_rate_hz
    clip_samples = round(config.data.clip_seconds * rate_hz)
    noise = NoiseBank(data.noise, clip_samples=clip_samples)
    return FrontEnd(
        _features(config.features, rate_hz),
        wave_augment=(
            TimeShift(
                seed=config.seed,
                max_samples=min(round(augment.shift_ms * rate_hz / 1000), clip_samples),
                probability=augment.shift_probability,
            ),
            *_drawn_silence(config, data, noise),
            BackgroundNoise(
                noise,
                seed=config.seed,
                max_amplitude=augment.noise_amplitude,
                probability=augment.noise_probability,
            ),
        ),
        feature_augment=(_spec_augment(augment, config.seed),),
    )


def _drawn_silence(config: Config, data: Data, noise: NoiseBank) -> tuple[DrawnSilence, ...]:
    """Return what draws the silence of the 12-class rule anew; nothing for recordings of silence that a user made."""
    words, by_rule = data.dataset.words, data.dataset.meta["source"].get("silence", False)
    if not by_rule or SILENCE_WORD not in words:
        return ()
    stored = min(CLIP_SAMPLES, noise.clip_samples)
    first = (noise.clip_samples - stored) // 2 if config.data.pad == "center" else 0
    return (
        DrawnSilence(
            noise,
            seed=config.seed,
            silence_label=words.index(SILENCE_WORD),
            heard=range(first, first + stored),
        ),
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
