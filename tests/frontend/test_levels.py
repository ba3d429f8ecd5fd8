"""Levels in decibels: noise at a signal-to-noise ratio, white noise to full scale, gain."""

import math

import pytest
import torch
from torch import Tensor

from kws_dist.frontend.gain import Gain
from kws_dist.frontend.noise import NoiseAtSnr, NoiseBank, WhiteNoise

SAMPLES = 16_000
MANY = torch.arange(4000)


def level_db(wave: Tensor) -> Tensor:
    return 10 * wave.double().square().mean(dim=-1).log10()


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    assert values.min() >= low
    assert values.max() <= high
    counts = torch.histc(values, bins=10, min=low, max=high)
    wanted = len(values) / 10
    assert ((counts - wanted) ** 2 / wanted).sum() < 35  # 9 degrees of freedom


@pytest.fixture(scope="module")
def bank() -> NoiseBank:
    """A loud recording and a faint one, whose level changes all the time."""
    torch.manual_seed(0)
    swell = 1 + torch.sin(torch.arange(40_000) / 3000)
    return NoiseBank([(torch.randn(40_000) * swell * by).to(torch.int16) for by in (2000, 40)], clip_samples=SAMPLES)


def test_noise_has_the_ratio_that_was_drawn_to_the_word_wherever_that_is(bank: NoiseBank) -> None:
    """The word takes up a third of the clip; what is measured is its level there, not that of the clip."""
    torch.manual_seed(0)
    noisy = NoiseAtSnr(bank, seed=1, min_db=-5, max_db=20, probability=1.0)
    wave = torch.zeros(200, SAMPLES)
    for row in range(200):
        wave[row, 50 * row : 50 * row + 5120] = torch.randn(5120) * 0.02 * (1 + row % 3)
    added = noisy(wave, MANY[:200]).double() - wave
    ratio = torch.stack([level_db(wave[row, 50 * row : 50 * row + 5120]) for row in range(200)]) - level_db(added)
    wanted = noisy.amounts(MANY[:200])["noise_snr_db"].double()
    aligned = torch.arange(200) * 50 % 320 == 0  # elsewhere frames lie across the beginning and the end of the word
    assert (ratio - wanted)[aligned].abs().max() < 0.1
    assert (ratio - wanted).abs().max() < 0.5


def test_noise_at_a_ratio_is_a_stretch_of_a_recording_and_as_often_as_asked(bank: NoiseBank) -> None:
    recording = bank.bank[:40_000]
    noisy = NoiseAtSnr(NoiseBank([recording], clip_samples=SAMPLES), seed=1, min_db=0, max_db=15, probability=0.4)
    tone = torch.sin(torch.arange(SAMPLES) * 0.1).repeat(60, 1) * 0.1
    added = (noisy(tone, MANY[:60]) - tone) * 32_768
    snr_db = noisy.amounts(MANY)["noise_snr_db"]
    assert abs(snr_db.isnan().double().mean() - 0.6) < 0.03
    assert_uniform(snr_db[~snr_db.isnan()], 0, 15)
    assert torch.equal(added.any(dim=1), ~snr_db[:60].isnan())
    heard = added[~snr_db[:60].isnan()]
    spectrum = torch.fft.rfft(recording.float(), 1 << 17)
    for row in heard[:5]:  # somewhere in the recording the noise fits perfectly
        alike = torch.fft.irfft(spectrum * torch.fft.rfft(row, 1 << 17).conj())[: 40_000 - SAMPLES]
        stretch = recording[int(alike.argmax()) :][:SAMPLES].float()
        assert torch.nn.functional.cosine_similarity(row, stretch, dim=0) > 0.999


def test_silence_stays_silent_and_silent_noise_adds_nothing(bank: NoiseBank) -> None:
    loud = NoiseAtSnr(bank, seed=1, min_db=-60, max_db=-60, probability=1.0)
    assert not loud(torch.zeros(9, SAMPLES), MANY[:9]).any()
    mute = NoiseBank([torch.zeros(SAMPLES, dtype=torch.int16)], clip_samples=SAMPLES)
    wave = torch.rand(9, SAMPLES) - 0.5
    assert torch.equal(NoiseAtSnr(mute, seed=1, min_db=-60, max_db=0, probability=1.0)(wave, MANY[:9]), wave)
    click = torch.zeros(9, SAMPLES)
    click[:, 5] = 1.0
    assert loud(click, MANY[:9]).isfinite().all()


def test_white_noise_is_white_gaussian_and_as_loud_as_drawn() -> None:
    white = WhiteNoise(seed=1, min_db=-90, max_db=-46, probability=0.75, clip_samples=SAMPLES)
    added = white(torch.zeros(100, SAMPLES), MANY[:100])
    dbfs = white.amounts(MANY)["white_noise_dbfs"]
    assert abs(dbfs.isnan().double().mean() - 0.25) < 0.03
    assert_uniform(dbfs[~dbfs.isnan()], -90, -46)
    noisy = ~dbfs[:100].isnan()
    assert torch.equal(added.any(dim=1), noisy)
    assert (level_db(added[noisy]) - dbfs[:100][noisy]).abs().max() < 0.15  # of 16,000 samples
    unit = (added[noisy] / 10 ** (dbfs[:100][noisy] / 20)[:, None]).double()
    assert abs(unit.mean()) < 0.01
    assert abs((unit**4).mean() - 3) < 0.15  # Gaussian; the sum of twelve has 2.9
    spectrum = torch.fft.rfft(unit).abs().square()[:, 1:].mean(dim=0).view(100, 80).mean(dim=1)
    assert (spectrum / spectrum.mean() - 1).abs().max() < 0.1
    assert len({row.numpy().tobytes() for row in added[noisy]}) == noisy.sum()


def test_gain_is_uniform_in_decibels_and_clipped_at_full_scale() -> None:
    gain = Gain(seed=1, min_db=-12, max_db=6, probability=0.5)
    wave = torch.full((4000, 20), 0.5)
    louder = gain(wave, MANY)
    gain_db = gain.amounts(MANY)["gain_db"]
    happens = ~gain_db.isnan()
    assert abs(happens.double().mean() - 0.5) < 0.03
    assert_uniform(gain_db[happens], -12, 6)
    torch.testing.assert_close(louder[happens, 0], 0.5 * 10 ** (gain_db[happens] / 20))
    assert torch.equal(louder[~happens], wave[~happens])
    assert math.isclose(float(gain(wave * 1.9, MANY).max()), 1.0)
