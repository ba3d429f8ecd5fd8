"""Two ways to a spectrum, and products that no setting makes coarser."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sounds import sounds, speech, torchaudios
from torch import Tensor

from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.features import Features, build_features
from kws_dist.frontend.precise import may_round
from kws_dist.frontend.spectrum import ShortTimeSpectrum

ROOT = Path(__file__).parents[2]


def far(a: Tensor, b: Tensor) -> float:
    """The share of values that are more than 1e-4 apart."""
    return ((a - b).abs() > 1e-4).double().mean().item()


@pytest.mark.parametrize("kind", ["logmel", "mfcc", "spectrogram"])
def test_the_matrix_product_gives_torchaudios_features_of_noise_clicks_and_silence(kind: str) -> None:
    waves = sounds()[[0, 1, 2, 5, 6, 7]]
    settings = FeatureSettings(kind=kind, spectrum="dft")  # type: ignore[arg-type]
    torch.testing.assert_close(Features(settings)(waves), torchaudios(waves, settings), rtol=0, atol=1e-3)
    assert far(Features(settings)(waves), torchaudios(waves, settings)) < 1e-3


def test_the_matrix_product_gives_torchaudios_log_mels_to_1e_4() -> None:
    waves = sounds()[[0, 1, 2, 5, 6, 7]]
    settings = FeatureSettings(spectrum="dft")
    torch.testing.assert_close(Features(settings)(waves), torchaudios(waves, settings), rtol=0, atol=1e-4)


@pytest.mark.real_data
def test_of_real_speech_the_matrix_product_is_nearer_to_the_definition_than_torchaudio_is(real_data: Path) -> None:
    """In float32, loud frames round their faintest bins; float64 says who is right."""
    spoken = speech(real_data, clips=100)
    settings = FeatureSettings(spectrum="dft")
    exact = torchaudios(spoken, settings, torch.float64)
    product, torchaudio = Features(settings)(spoken).double(), torchaudios(spoken, settings).double()
    assert far(product, exact) < far(torchaudio, exact) < 1e-3
    assert (product - exact).abs().max() < 1e-3


def test_the_parts_are_those_of_the_transform_of_a_frame() -> None:
    torch.manual_seed(0)
    wave = torch.randn(1, 480)
    for dft in (False, True):
        spectrum = ShortTimeSpectrum(window_samples=480, hop_samples=160, fft_samples=480, centered=False, dft=dft)
        wanted = torch.view_as_real(torch.fft.rfft(wave.double() * torch.hann_window(480))).flatten(1)
        torch.testing.assert_close(spectrum(wave)[0].double(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["logmel", "mfcc", "spectrogram"])
def test_the_matrix_product_exports_without_complex_numbers(kind: str) -> None:
    made = build_features(kind, spectrum="dft", normalize="clip")  # type: ignore[arg-type]
    wave = torch.randn(2, 16_000)
    some = {0: torch.export.Dim("clips", min=1, max=16)}
    exported = torch.export.export(made, (wave,), dynamic_shapes=(some,))
    values = [
        node.meta["val"]
        for module in exported.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
    ]
    assert len(values) > 8
    assert not any(value.is_complex() for value in values)
    one = torch.randn(1, 16_000)
    torch.testing.assert_close(exported.module()(one), made(one))


# In a process of its own, as settings of torch's older and newer kind do not mix. The last two are as they were.
SETTINGS = """
import torch
from kws_dist.frontend.features import build_features
from kws_dist.frontend.precise import matmul, may_round

torch.manual_seed(0)
wave, a, b = torch.randn(3, 16_000), torch.rand(300, 514), torch.rand(514, 40)
exact = (a.double() @ b.double()).float()
features = {name: build_features("mfcc", spectrum=name) for name in ("fft", "dft")}
plain = {name: module(wave) for name, module in features.items()}

def now(setting):
    rounds = may_round("cpu"), may_round("cuda")
    assert torch.equal(matmul(a, b), exact) == rounds[0], setting
    for name, module in features.items():
        torch.testing.assert_close(module(wave), plain[name], rtol=0, atol=1e-4)
    print(*rounds, setting)

def newer(backend, value):
    backend.fp32_precision = value
    now(f"{getattr(backend, '__name__', backend)} {value}")

assert not may_round("cpu") and not may_round("cuda")
if hasattr(torch.backends, "fp32_precision"):
    newer(torch.backends, "tf32")
    newer(torch.backends, "none")
    newer(torch.backends.mkldnn.matmul, "bf16")
    newer(torch.backends.mkldnn.matmul, "none")
    newer(torch.backends.cuda.matmul, "tf32")
    newer(torch.backends.cuda.matmul, "none")
for value in ("medium", "high", "highest"):
    torch.set_float32_matmul_precision(value)
    now(value)
for value in (True, False):
    torch.backends.cuda.matmul.allow_tf32 = value
    now(f"allow_tf32 {value}")
"""


def test_no_setting_that_rounds_products_of_models_rounds_those_of_features() -> None:
    done = subprocess.run([sys.executable, "-c", SETTINGS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rounds = {line.split(" ", 2)[2]: tuple(line.split(" ")[:2]) for line in done.stdout.splitlines()}
    assert rounds["medium"] == ("True", "True")
    assert rounds["highest"] == ("False", "False")
    assert rounds["allow_tf32 True"][1] == "True"
    assert rounds["allow_tf32 False"] == ("False", "False")
    if hasattr(torch.backends, "fp32_precision"):
        assert len(rounds) == 11


def test_by_default_products_are_in_float32() -> None:
    assert not may_round("cpu")
    assert not may_round("cuda")
