"""Features: torchaudio's definition, the same for any number of clips at once, and always float32."""

import math

import pytest
import torch
from torch import Tensor

from kws_dist.frontend import features
from kws_dist.frontend._torchaudio import transforms
from kws_dist.frontend.features import LogMel, build_features
from kws_dist.frontend.pipeline import FrontEnd


@pytest.fixture(scope="module")
def waves() -> Tensor:
    """Eight clips of one second that differ in kind: noise, loud, faint, tones, an impulse, silence, half silence."""
    torch.manual_seed(0)
    time = torch.arange(16_000) / 16_000
    wave = torch.randn(8, 16_000) * 0.1
    wave[1] = torch.randn(16_000).clamp(-1, 1)
    wave[2] *= 1e-3
    wave[3] = 0.5 * torch.sin(2 * math.pi * 440 * time)
    wave[4] = 0.9 * torch.sin(2 * math.pi * (200 + 3000 * time) * time)
    wave[5], wave[5, 8000] = 0.0, 1.0
    wave[6] = 0.0
    wave[7, 8000:] = 0.0
    return wave


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mels": 64, "window_ms": 25.0, "hop_ms": 12.5, "fft_samples": 400, "min_hz": 20.0, "max_hz": 7600.0},
        {"mels": 20, "sample_rate_hz": 8000, "max_hz": 4000.0, "log_offset": 1e-3},
    ],
)
def test_log_mels_are_those_of_torchaudio(waves: Tensor, settings: dict[str, float]) -> None:
    given = {"sample_rate_hz": 16_000, "mels": 40, "window_ms": 30.0, "hop_ms": 10.0, "fft_samples": 512} | settings
    mel = transforms.MelSpectrogram(
        sample_rate=int(given["sample_rate_hz"]),
        n_fft=int(given["fft_samples"]),
        win_length=round(given["window_ms"] * given["sample_rate_hz"] / 1000),
        hop_length=round(given["hop_ms"] * given["sample_rate_hz"] / 1000),
        f_min=given.get("min_hz", 0.0),
        f_max=given.get("max_hz", 8000.0),
        n_mels=int(given["mels"]),
    )
    wanted = torch.log(mel(waves) + given.get("log_offset", 1e-6)).unsqueeze(1)
    torch.testing.assert_close(build_features("logmel", **settings)(waves), wanted, rtol=0, atol=1e-4)


def test_one_second_is_40_mels_of_101_frames(waves: Tensor) -> None:
    assert LogMel()(waves[:2]).shape == (2, 1, 40, 101)
    assert LogMel()(waves[:2, :8000]).shape == (2, 1, 40, 51)


def test_silence_is_the_logarithm_of_the_offset(waves: Tensor) -> None:
    silent = LogMel(log_offset=1e-5)(waves)[6]
    torch.testing.assert_close(silent, torch.full_like(silent, math.log(1e-5)))


def test_a_tone_is_loudest_in_the_mel_around_it(waves: Tensor) -> None:
    mel_of_440_hz = 2595 * math.log10(1 + 440 / 700)
    band = mel_of_440_hz / (2595 * math.log10(1 + 8000 / 700)) * 41 - 1
    loudest = LogMel()(waves)[3, 0].argmax(dim=0)
    assert all(abs(loudest[5:-5] - band) <= 1)


@pytest.mark.parametrize("chunk", [1, 3, 8, 32])
def test_features_do_not_depend_on_how_many_clips_are_taken_at_once(
    waves: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LogMel()(waves)
    monkeypatch.setattr(features, "_CPU_CHUNK_CLIPS", chunk)
    torch.testing.assert_close(LogMel()(waves), whole, rtol=0, atol=1e-6)
    many = waves.repeat(5, 1)
    torch.testing.assert_close(LogMel()(many), whole.repeat(5, 1, 1, 1), rtol=0, atol=1e-6)


def test_features_stay_float32_under_autocast(waves: Tensor) -> None:
    plain = LogMel()(waves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (waves @ waves.T).dtype == torch.bfloat16
        under_autocast = LogMel()(waves)
        assert LogMel()(waves.bfloat16()).dtype == torch.float32
        # The caller's autocast is on again afterwards.
        assert (waves @ waves.T).dtype == torch.bfloat16
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, plain)


def test_the_front_end_turns_pcm_into_features_in_the_range_of_one() -> None:
    pcm = torch.tensor([[-32_768, -16_384, 0, 16_384, 32_767]], dtype=torch.int16)
    wave = FrontEnd(torch.nn.Identity())(pcm, *torch.zeros(2, 1, dtype=torch.int64))
    assert wave.dtype == torch.float32
    assert wave.tolist() == [[-1.0, -0.5, 0.0, 0.5, 32_767 / 32_768]]
