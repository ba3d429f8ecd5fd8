"""Features on a CUDA device are those on the CPU, whatever the process lets models round: `pytest -m gpu`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sounds import sounds, torchaudios
from torch import Tensor

from kws_dist.features_bench import bench_features
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.features import Features
from kws_dist.frontend.normalize import feature_statistics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CHOICES: list[dict[str, Any]] = [
    {},
    {"spectrum": "dft"},
    {"kind": "mfcc", "centered": False},
    {"magnitude": True, "normalize": "clip"},
    {"kind": "spectrogram"},
    {"kind": "waveform", "resample_hz": 8000},
]


@pytest.fixture(scope="module")
def waves() -> Tensor:
    """Noise, clicks and silence: of tones float32 has nothing exact to say below the loudest bins."""
    return sounds()[[0, 1, 2, 5, 6, 7]]


@pytest.fixture(params=["exact", "TF32"])
def products(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_float32_matmul_precision("highest" if request.param == "exact" else "high")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_features_on_the_gpu_are_those_of_the_cpu(waves: Tensor, choice: dict[str, Any]) -> None:
    features = Features(FeatureSettings(**choice))
    wanted = features(waves)
    torch.testing.assert_close(features.cuda()(waves.cuda()).cpu(), wanted, rtol=0, atol=2e-4)


@pytest.mark.usefixtures("products")
def test_log_mels_on_the_gpu_are_those_of_torchaudio_to_1e_4(waves: Tensor) -> None:
    made = Features(FeatureSettings()).cuda()(waves.cuda()).cpu()
    torch.testing.assert_close(made, torchaudios(waves, FeatureSettings()), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_clips_features_are_the_same_in_any_batch(waves: Tensor, choice: dict[str, Any]) -> None:
    features = Features(FeatureSettings(**choice)).cuda()
    many = waves.repeat(43, 1)[:256].cuda()
    whole = features(many)
    for size in (1, 7, 32, 100):
        torch.testing.assert_close(features(many[-size:]), whole[-size:], rtol=1e-6, atol=1e-6)


def test_statistics_are_computed_where_the_waves_are(waves: Tensor) -> None:
    features = Features(FeatureSettings())
    on_cpu = feature_statistics(features, [waves])
    on_gpu = feature_statistics(features.cuda(), waves.cuda().split(2))
    torch.testing.assert_close(torch.tensor(on_gpu.mean), torch.tensor(on_cpu.mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(on_gpu.std), torch.tensor(on_cpu.std), rtol=0, atol=1e-4)


def test_the_benchmark_runs() -> None:
    result = bench_features(device=torch.device("cuda"), clips=64, rounds=1)
    assert min(result["clips_per_s"].values()) > 0
