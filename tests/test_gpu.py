"""What only a CUDA device can show of draws, augmentation, features and whole runs: `pytest -m gpu`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import ROOT
from torch import nn

from kws_dist.data.sampler import BatchSlice, ClassBalancedDistributedSampler, ExactlyOnceSampler, Sampler
from kws_dist.data.store import ClipPolicy, Residency, open_store
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.frontend.augment import Sounds, wave_augmentation
from kws_dist.frontend.augment_settings import AugmentSettings
from kws_dist.frontend.features import LogMel
from kws_dist.frontend.masks import SpecAugment
from kws_dist.frontend.noise import DrawnSilence, NoiseBank
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.pipeline_bench import bench_pipeline, show
from kws_dist.shards.read import open_dataset

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CLIP_SAMPLES = 16_000
LABELS = np.random.default_rng(0).choice(5, size=3_000, p=[0.5, 0.2, 0.15, 0.1, 0.05])

AUGMENTATIONS = {
    "shift and noise": {},
    "speed": {"speed_percent": 15},
    "tempo": {"tempo_percent": 15},
    "reverb": {"reverb_probability": 0.5},
    "mix-up": {"mixup_probability": 0.5},
    "cut-mix": {"cutmix_probability": 0.5},
    "noise at an SNR": {"snr_noise_probability": 0.5},
    "gain": {"gain_min_db": -6.0, "gain_max_db": 6.0},
    "white noise": {"white_noise_probability": 0.5},
    "drops": {"drop_chunks": 3},
}


@pytest.mark.parametrize(
    "sampler",
    [
        ClassBalancedDistributedSampler(LABELS, seed=1, global_batch=64),
        ClassBalancedDistributedSampler(LABELS, seed=1, global_batch=64, balance=0.4, weights=[1, 2, 1, 0.3, 1]),
        ExactlyOnceSampler(len(LABELS), seed=1, global_batch=64),
        ExactlyOnceSampler(len(LABELS), seed=1, global_batch=64, shuffle=False),
    ],
    ids=["balanced", "uneven", "exactly once", "in order"],
)
def test_draws_on_the_gpu_are_those_of_numpy(sampler: Sampler) -> None:
    for first in (0, 1 << 33):
        t = np.arange(first, first + 10_000)
        on_cpu, on_gpu = sampler.draws(t), sampler.draws(torch.from_numpy(t).to(CUDA))
        assert np.array_equal(on_gpu.clip.cpu(), on_cpu.clip)
        assert np.array_equal(on_gpu.weight.cpu(), on_cpu.weight)
        assert np.array_equal(sampler.partners(torch.from_numpy(t).to(CUDA)).cpu(), sampler.partners(t))


def waveforms(**settings: float) -> FrontEnd:
    """A front end that gives the augmented waveforms themselves."""
    recording = torch.from_numpy(np.random.default_rng(1).integers(-9_000, 9_000, 40_000).astype(np.int16))
    bank = NoiseBank([recording, recording[::2].contiguous()], clip_samples=CLIP_SAMPLES)
    silence = DrawnSilence(bank, seed=3, silence_label=1, heard=range(CLIP_SAMPLES))
    response = torch.from_numpy(np.random.default_rng(2).normal(size=4_000) * 0.999 ** np.arange(4_000)).float()
    sounds = Sounds(noise=bank, silence=silence, responses=[response])
    augment = wave_augmentation(
        AugmentSettings(**{"reverb_probability": 0.0, **settings}),  # type: ignore[arg-type]
        sounds,
        seed=3,
        sample_rate_hz=16_000,
        pad="end",
    )
    return FrontEnd(nn.Identity(), wave_augment=augment)


def worker(
    shards: Path, device: torch.device, front_end: FrontEnd, residency: Residency = "device", ahead: int | None = None
) -> DeviceWorker:
    rows = open_dataset(shards).rows("train")
    store = open_store(rows, ClipPolicy(clip_samples=CLIP_SAMPLES), residency=residency, device=device)
    sampler = ClassBalancedDistributedSampler(rows.label, seed=0, global_batch=12)
    return DeviceWorker(store, sampler, front_end.to(device), BatchSlice(global_batch=12), device, ahead=ahead)


def batches(worker: DeviceWorker) -> list[Batch]:
    return list(worker.batches(0, 5))


@pytest.mark.parametrize("settings", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmented_waveforms_have_the_same_bits_on_the_gpu(tiny_dataset: Path, settings: dict[str, float]) -> None:
    on_cpu = batches(worker(tiny_dataset, CPU, waveforms(**settings)))
    on_gpu = batches(worker(tiny_dataset, CUDA, waveforms(**settings)))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert a.draws.clip.tolist() == b.draws.clip.tolist()
        assert torch.equal(a.labels, b.labels.cpu())
        assert torch.equal(a.features, b.features.cpu())
        if a.partner_share is not None:
            assert b.partner_share is not None
            assert torch.equal(a.partner_share, b.partner_share.cpu())


def to_features() -> FrontEnd:
    masks = SpecAugment(seed=3, time_masks=2, max_time_frames=20, frequency_masks=2, max_frequency_bins=5)
    return FrontEnd(LogMel(), wave_augment=tuple(waveforms().wave_augment), feature_augment=(masks,))


@pytest.mark.parametrize("residency", ["device", "host"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_made_on_the_gpu_are_those_made_on_the_cpu(
    tiny_dataset: Path, residency: Residency, ahead: int
) -> None:
    on_cpu = batches(worker(tiny_dataset, CPU, to_features(), residency))
    on_gpu = batches(worker(tiny_dataset, CUDA, to_features(), residency, ahead))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert a.draws.clip.tolist() == b.draws.clip.tolist()
        assert torch.equal(a.labels, b.labels.cpu())
        torch.testing.assert_close(b.features.cpu(), a.features, atol=1e-3, rtol=1e-4)


def test_clips_on_the_gpu_and_in_files_make_the_same_bits(tiny_dataset: Path) -> None:
    of_device = batches(worker(tiny_dataset, CUDA, to_features(), "device"))
    of_host = batches(worker(tiny_dataset, CUDA, to_features(), "host"))
    for a, b in zip(of_device, of_host, strict=True):
        assert torch.equal(a.features, b.features)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.weights, b.weights)


def test_log_mel_of_loud_noise_is_that_of_the_cpu() -> None:
    wave = torch.rand(64, CLIP_SAMPLES, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(LogMel().to(CUDA)(wave.to(CUDA)).cpu(), LogMel()(wave), atol=1e-4, rtol=1e-4)


def test_the_pipeline_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_pipeline(device=CUDA, clips=20_000, rounds=1)
    assert all(of["clips_per_s"] > 0 for of in result["stages"].values())
    with capsys.disabled():
        show(result)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_in_every_precision_ends_with_a_result(tiny_dataset: Path, tmp_path: Path, precision: str) -> None:

    settings = ("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run", "--train.precision", precision)
    size = ("--train.epochs", "2", "--train.global_batch", "12", "--train.accumulate", "2", "--train.ema_decay", "0.9")
    command = [sys.executable, ROOT / "launch" / "train.py", *settings, *size]
    subprocess.run([str(word) for word in command], check=True, timeout=300)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"]["n"] == 9
    assert np.isfinite(result["test"]["loss"])
