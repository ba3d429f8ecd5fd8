"""What is trained on does not depend on how many ranks there are, on accumulation, or on where the clips live."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from kws_dist.config import Config, parse
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.training.data import open_data
from kws_dist.training.draws import training_sampler
from kws_dist.training.front_end import training_front_end, training_statistics

CPU = torch.device("cpu")
GLOBAL_BATCH = 24
SPLITS = [(1, 1), (1, 3), (2, 1), (2, 2), (4, 1), (4, 3)]  # ranks, accumulation

EVERYTHING = """
    --augment.speed_percent 15 --augment.speed_probability 0.5
    --augment.tempo_percent 10 --augment.tempo_probability 0.5
    --augment.mixup_probability 0.4 --augment.cutmix_probability 0.4
    --augment.snr_noise_probability 0.5 --augment.white_noise_probability 0.5
    --augment.gain_min_db -6 --augment.gain_max_db 6
    --augment.drop_chunks 2
    --augment.frequency_mask_bins 5 --augment.rectangle_masks 2
"""


class Waveforms(nn.Module):
    """Features that are the waveform itself, so that a test sees what the augmentation made."""

    def forward(self, wave: Tensor) -> Tensor:
        return wave[:, None, None, :].clone()


@pytest.fixture
def settings(tiny_dataset: Path, tmp_path: Path) -> Callable[..., Config]:
    responses = tmp_path / "rooms"
    responses.mkdir()
    decay = np.exp(-np.arange(2000) / 300) * np.random.default_rng(0).standard_normal(2000)
    soundfile.write(responses / "room.wav", decay / np.abs(decay).max(), 16_000)

    def made(*more: str) -> Config:
        base = ["--data.shards", str(tiny_dataset), "--train.global_batch", str(GLOBAL_BATCH), "--seed", "5"]
        return parse([*base, *EVERYTHING.split(), "--augment.reverb_folder", str(responses), *more])

    return made


def batches(config: Config, world: int, accumulate: int, *, waveforms: bool, steps: range = range(2)) -> list[Batch]:
    """The micro-batches of all ranks, each rank by itself, in the order of the global sequence."""
    data = open_data(config.data, CPU, ("train",))
    store = data.stores["train"]
    sampler = training_sampler(config, store.rows, data.dataset.words, streams=False)
    whole = training_front_end(config, data, training_statistics(config, data, sampler, CPU))
    front_end = FrontEnd(Waveforms(), wave_augment=tuple(whole.wave_augment)) if waveforms else whole
    by_rank = []
    for rank in range(world):
        cut = BatchSlice(global_batch=GLOBAL_BATCH, rank=rank, world=world, accumulate=accumulate)
        by_rank.append(list(DeviceWorker(store, sampler, front_end, cut, CPU).batches(steps.start, steps.stop)))
    return [batch for micro_step in zip(*by_rank, strict=True) for batch in micro_step]


def joined(parts: list[Batch]) -> dict[str, Any]:
    names = ("features", "labels", "weights", "partner_labels", "partner_share")
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return columns | {"t": np.concatenate([part.draws.t for part in parts])}


@pytest.mark.parametrize("balance", ["1", "0"])
def test_waveforms_and_labels_are_the_same_bits_on_any_number_of_ranks(
    settings: Callable[..., Config], balance: str
) -> None:
    config = settings("--data.balance", balance)
    alone = joined(batches(config, 1, 1, waveforms=True))
    assert alone["t"].tolist() == list(range(2 * GLOBAL_BATCH))
    assert (alone["partner_share"] > 0).float().mean() > 0.5
    for world, accumulate in SPLITS[1:]:
        together = joined(batches(config, world, accumulate, waveforms=True))
        for name, column in alone.items():
            assert np.array_equal(column, together[name]), (name, world, accumulate)


@pytest.mark.parametrize(
    "features", ["", "--features.kind mfcc --features.normalize dataset", "--features.kind spectrogram"]
)
def test_features_are_equal_to_a_millionth_on_any_number_of_ranks(
    settings: Callable[..., Config], features: str
) -> None:
    config = settings(*features.split())
    alone = joined(batches(config, 1, 1, waveforms=False))
    for world, accumulate in ((2, 1), (4, 3)):
        together = joined(batches(config, world, accumulate, waveforms=False))
        torch.testing.assert_close(together["features"], alone["features"], rtol=1e-6, atol=1e-6)


def test_clips_on_the_device_and_in_files_give_the_same_bits(settings: Callable[..., Config]) -> None:
    config = settings()
    device, host = (
        joined(batches(replace(config, data=replace(config.data, residency=residency)), 2, 2, waveforms=False))
        for residency in ("device", "host")
    )
    for name, column in device.items():
        assert np.array_equal(column, host[name]), name


def test_a_later_step_is_the_same_without_those_before(settings: Callable[..., Config]) -> None:
    config = settings()
    all_steps = joined(batches(config, 1, 1, waveforms=True, steps=range(4)))
    last = joined(batches(config, 1, 1, waveforms=True, steps=range(3, 4)))
    for name, column in last.items():
        assert np.array_equal(column, all_steps[name][3 * GLOBAL_BATCH :]), name
