"""What only a CUDA device can show: `pytest -m gpu`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import ROOT

from kws_dist.data.sampler import BatchSlice, ClassBalancedDistributedSampler
from kws_dist.data.store import ClipPolicy, open_store
from kws_dist.data.workers import DeviceWorker
from kws_dist.frontend.augment import BackgroundNoise, DrawnSilence, NoiseBank, SpecAugment, TimeShift
from kws_dist.frontend.features import LogMel
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.shards.read import open_dataset

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def front_end() -> FrontEnd:
    bank = NoiseBank([torch.arange(40_000, dtype=torch.int16)], clip_samples=16_000)
    return FrontEnd(
        LogMel(),
        wave_augment=(
            TimeShift(seed=3, max_samples=1600, probability=0.8),
            DrawnSilence(bank, seed=3, silence_label=1, heard=range(16_000)),
            BackgroundNoise(bank, seed=3, max_amplitude=0.1, probability=0.8),
        ),
        feature_augment=(
            SpecAugment(seed=3, time_masks=2, max_time_frames=20, frequency_masks=2, max_frequency_bins=5),
        ),
    )


def worker(shards: Path, device: torch.device, residency: str, ahead: int | None = None) -> DeviceWorker:
    rows = open_dataset(shards).rows("train")
    store = open_store(rows, ClipPolicy(clip_samples=16_000), residency=residency, device=device)  # type: ignore[arg-type]
    sampler = ClassBalancedDistributedSampler(rows.label, seed=0, global_batch=12)
    return DeviceWorker(store, sampler, front_end().to(device), BatchSlice(global_batch=12), device, ahead=ahead)


@pytest.mark.parametrize("residency", ["device", "host"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_made_on_the_gpu_are_those_made_on_the_cpu(tiny_dataset: Path, residency: str, ahead: int) -> None:
    gpu = worker(tiny_dataset, torch.device("cuda"), residency, ahead).batches(0, 5)
    cpu = worker(tiny_dataset, torch.device("cpu"), residency).batches(0, 5)
    for on_gpu, on_cpu in zip(gpu, cpu, strict=True):
        assert np.array_equal(on_gpu.draws.clip, on_cpu.draws.clip)
        assert torch.equal(on_gpu.labels.cpu(), on_cpu.labels)
        torch.testing.assert_close(on_gpu.features.cpu(), on_cpu.features, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_in_every_precision_ends_with_a_result(tiny_dataset: Path, tmp_path: Path, precision: str) -> None:

    settings = ("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run", "--train.precision", precision)
    size = ("--train.epochs", "2", "--train.global_batch", "12", "--train.accumulate", "2", "--train.ema_decay", "0.9")
    command = [sys.executable, ROOT / "launch" / "train.py", *settings, *size]
    subprocess.run([str(word) for word in command], check=True, timeout=300)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"]["n"] == 9
    assert np.isfinite(result["test"]["loss"])
