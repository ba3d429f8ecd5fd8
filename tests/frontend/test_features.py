"""Features: torchaudio's definition, the same for any number of clips at once, and always float32."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sounds import sounds, speech, torchaudios
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.frontend import features
from kws_dist.frontend._torchaudio import transforms
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.features import Features, LogMel, build_features
from kws_dist.frontend.normalize import Statistics
from kws_dist.frontend.pipeline import FrontEnd

CHOICES: dict[str, dict[str, Any]] = {
    "log-mel": {},
    "400-point transform": {
        "mels": 64,
        "window_ms": 25.0,
        "hop_ms": 12.5,
        "fft_samples": 400,
        "min_hz": 20.0,
        "max_hz": 7600.0,
    },
    "short window": {"window_ms": 12.0, "fft_samples": 1024, "log_offset": 1e-3},
    "odd window": {"window_ms": 401 / 16, "hop_ms": 157 / 16},
    "inside the clip": {"centered": False},
    "magnitudes": {"magnitude": True, "log_offset": 1e-9},
    "librosa's bands": {"mel_scale": "slaney", "fft_samples": 480, "min_hz": 20.0, "max_hz": 4000.0},
    "one band": {"mels": 1},
    "MFCC": {"kind": "mfcc"},
    "10 MFCC inside the clip": {"kind": "mfcc", "coefficients": 10, "window_ms": 25.0, "centered": False},
    "spectrogram": {"kind": "spectrogram", "fft_samples": 480},
    "spectrogram of magnitudes": {"kind": "spectrogram", "magnitude": True},
    "waveform": {"kind": "waveform"},
    "waveform at 8 kHz": {"kind": "waveform", "resample_hz": 8000},
}


@pytest.fixture(scope="module")
def waves() -> Tensor:
    return sounds()


@pytest.mark.parametrize("name", CHOICES)
def test_features_are_those_of_torchaudio(waves: Tensor, name: str) -> None:
    settings = FeatureSettings(**CHOICES[name])
    ours = Features(settings)(waves)
    torch.testing.assert_close(ours, torchaudios(waves, settings), rtol=0, atol=1e-4)
    assert ours.shape[2] == settings.bins
    assert ours.is_contiguous()


@pytest.mark.real_data
def test_features_of_real_speech_are_those_of_torchaudio(real_data: Path) -> None:
    spoken = speech(real_data, clips=40)
    for name in ("log-mel", "MFCC", "spectrogram", "waveform at 8 kHz"):
        settings = FeatureSettings(**CHOICES[name])
        for wave in (spoken, (20 * spoken).clamp(-1, 1)):
            torch.testing.assert_close(Features(settings)(wave), torchaudios(wave, settings), rtol=0, atol=1e-4)


def test_any_kind_can_be_of_resampled_clips(waves: Tensor) -> None:
    settings = FeatureSettings(resample_hz=8000, mels=20, max_hz=4000.0)
    noise = waves[:3]
    torch.testing.assert_close(Features(settings)(noise), torchaudios(noise, settings), rtol=0, atol=1e-4)
    at_8_khz = build_features("waveform", resample_hz=8000)(noise)[:, 0, 0]
    same = LogMel(sample_rate_hz=8000, mels=20, max_hz=4000.0)(at_8_khz)
    assert torch.equal(Features(settings)(noise), same)


def test_the_whole_transforms_of_torchaudio_say_the_same(waves: Tensor) -> None:
    shape = {"n_fft": 512, "win_length": 480, "hop_length": 160, "n_mels": 40}
    mel = transforms.MelSpectrogram(16_000, **shape)
    torch.testing.assert_close(LogMel()(waves)[:, 0], torch.log(mel(waves) + 1e-6), rtol=0, atol=1e-4)
    mfcc = transforms.MFCC(16_000, n_mfcc=13, log_mels=True, melkwargs=shape)
    torch.testing.assert_close(build_features("mfcc", coefficients=13)(waves)[:, 0], mfcc(waves), rtol=0, atol=1e-4)


def test_one_second_is_40_mels_of_101_frames(waves: Tensor) -> None:
    assert LogMel()(waves[:2]).shape == (2, 1, 40, 101)
    assert LogMel()(waves[:2, :8000]).shape == (2, 1, 40, 51)
    assert LogMel(centered=False)(waves[:2]).shape == (2, 1, 40, 98)


@given(window=st.integers(2, 512), hop=st.integers(1, 300), extra=st.integers(0, 900), centered=st.booleans())
@examples(deadline=None, max_examples=30)
def test_any_clip_from_one_window_on_has_its_frames(window: int, hop: int, extra: int, centered: bool) -> None:
    samples = max(window, hop) + extra
    torch.manual_seed(extra)
    wave = torch.randn(2, samples)
    settings = FeatureSettings(kind="spectrogram", window_ms=window / 16, hop_ms=hop / 16, centered=centered)
    made = Features(settings)(wave)
    assert made.shape == (2, 1, 257, samples // hop + 1 if centered else (samples - window) // hop + 1)
    if not centered or samples > 256:  # below, torch.stft has nothing to mirror
        torch.testing.assert_close(made, torchaudios(wave, settings), rtol=0, atol=1e-3)


def test_silence_is_the_logarithm_of_the_offset(waves: Tensor) -> None:
    for settings in ({"log_offset": 1e-5}, {"log_offset": 1e-5, "spectrum": "dft"}):
        silent = LogMel(**settings)(waves)[6]
        torch.testing.assert_close(silent, torch.full_like(silent, math.log(1e-5)))


def test_a_tone_is_loudest_in_the_band_around_it(waves: Tensor) -> None:
    mel_of_440_hz = 2595 * math.log10(1 + 440 / 700)
    band = mel_of_440_hz / (2595 * math.log10(1 + 8000 / 700)) * 41 - 1
    loudest = LogMel()(waves)[3, 0].argmax(dim=0)
    assert all(abs(loudest[5:-5] - band) <= 1)
    assert all(build_features("spectrogram")(waves)[3, 0].argmax(dim=0)[5:-5] == round(440 / 16_000 * 512))


def test_the_waveform_is_one_bin_with_a_frame_for_each_sample(waves: Tensor) -> None:
    made = build_features("waveform")(waves)
    assert made.shape == (10, 1, 1, 16_000)
    assert torch.equal(made.squeeze(2), waves[:, None])


@pytest.mark.parametrize("chunk_clips", [1, 3, 8, 32])
def test_features_do_not_depend_on_how_many_clips_are_taken_at_once(
    waves: Tensor, chunk_clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LogMel()(waves)
    monkeypatch.setattr(features, "_CPU_CHUNK_SAMPLES", chunk_clips * 101 * 512)
    torch.testing.assert_close(LogMel()(waves), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"spectrum": "dft"},
        {"magnitude": True, "normalize": "clip"},
        {"normalize": "dataset"},
        {"kind": "mfcc"},
        {"kind": "spectrogram"},
        {"kind": "waveform", "resample_hz": 8000, "normalize": "clip"},
    ],
    ids=str,
)
def test_a_clips_features_are_the_same_in_any_batch(waves: Tensor, settings: dict[str, Any]) -> None:
    statistics = Statistics((-5.0,) * 40, (3.0,) * 40) if settings.get("normalize") == "dataset" else None
    made = Features(FeatureSettings(**settings), statistics=statistics)
    torch.manual_seed(1)
    many = waves[torch.randint(10, (256,))] * torch.rand(256, 1)
    whole = made(many)
    for size in (1, 7, 32, 100):
        for first in (0, 256 - size):
            some = made(many[first : first + size])
            torch.testing.assert_close(some, whole[first : first + size], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"kind": "mfcc", "spectrum": "dft"}, {"kind": "waveform"}], ids=str)
def test_features_stay_float32_under_autocast(waves: Tensor, settings: dict[str, Any]) -> None:
    made = Features(FeatureSettings(**settings))
    plain = made(waves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (waves @ waves.T).dtype == torch.bfloat16
        under_autocast = made(waves)
        assert made(waves.bfloat16()).dtype == torch.float32
        # The caller's autocast is on again afterwards.
        assert (waves @ waves.T).dtype == torch.bfloat16
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, plain)


def test_the_waves_are_left_as_they_are(waves: Tensor) -> None:
    for settings in CHOICES.values():
        before = waves.clone()
        Features(FeatureSettings(**settings))(waves)
        assert torch.equal(waves, before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mels": 0}, "mels 0"),
        ({"kind": "mfcc", "coefficients": 41}, "coefficients 41"),
        ({"kind": "mfcc", "coefficients": 0}, "coefficients 0"),
        ({"max_hz": 8001.0}, "8001 should be from 0 to 8000"),
        ({"resample_hz": 8000}, "8000 should be from 0 to 4000"),
        ({"min_hz": 4000.0, "max_hz": 4000.0}, "min_hz 4000"),
        ({"min_hz": -1.0}, "min_hz -1"),
        ({"window_ms": 40.0}, "is 640 samples at 16000 Hz; take 1024"),
        ({"fft_samples": 481}, "fft_samples 481"),
        ({"window_ms": 0.05}, "window_ms 0.05"),
        ({"hop_ms": 0.01}, "hop_ms 0.01"),
        ({"hop_ms": -10.0}, "hop_ms -10"),
        ({"log_offset": 0.0}, "log_offset 0"),
        ({"resample_hz": -8000}, "resample_hz -8000"),
        ({"normalize": "dataset"}, "needs the statistics"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Features(FeatureSettings(**settings))


def test_settings_that_a_kind_does_not_use_are_not_looked_at() -> None:
    Features(FeatureSettings(kind="waveform", mels=0, window_ms=40.0))
    Features(FeatureSettings(kind="spectrogram", mels=0, coefficients=99))
    Features(FeatureSettings(kind="logmel", mels=20, coefficients=40))


def test_a_clip_shorter_than_a_window_or_a_hop_is_refused() -> None:
    LogMel()(torch.zeros(1, 480))
    with pytest.raises(UsageError, match="clips of 479 samples"):
        LogMel()(torch.zeros(1, 479))
    with pytest.raises(UsageError, match=r"hop_ms 100 \(1600 samples\)"):
        LogMel(hop_ms=100.0)(torch.zeros(1, 1599))
    at_8_khz = {"resample_hz": 8000, "max_hz": 4000.0}
    LogMel(**at_8_khz)(torch.zeros(1, 480))
    with pytest.raises(UsageError, match="clips of 479 samples"):
        LogMel(**at_8_khz)(torch.zeros(1, 479))


def test_the_front_end_turns_pcm_into_features_in_the_range_of_one() -> None:
    pcm = torch.tensor([[-32_768, -16_384, 0, 16_384, 32_767]], dtype=torch.int16)
    wave = FrontEnd(torch.nn.Identity())(pcm, *torch.zeros(2, 1, dtype=torch.int64))
    assert wave.dtype == torch.float32
    assert wave.tolist() == [[-1.0, -0.5, 0.0, 0.5, 32_767 / 32_768]]
