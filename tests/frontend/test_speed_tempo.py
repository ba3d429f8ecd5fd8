"""Speed and tempo, on tones and impulses whose place and pitch can be measured."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kws_dist.frontend.speed import Speed
from kws_dist.frontend.tempo import Tempo, _most_alike

RATE_HZ = 16_000
MANY = torch.arange(4000)
Kind = type[Speed] | type[Tempo]
kinds = pytest.mark.parametrize("kind", [Speed, Tempo])


def tone(hz: float, samples: int = RATE_HZ) -> Tensor:
    angle = 2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / RATE_HZ
    return (0.5 * torch.sin(angle)).float()


def pitch_hz(wave: Tensor) -> float:
    """The loudest frequency in the middle of a clip."""
    middle = wave[3000:12_000].numpy()
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))
    return float(spectrum.argmax()) * RATE_HZ / (1 << 18)


def level_db(wave: Tensor) -> float:
    """The level in the middle of a clip, to that of the tone."""
    return 20 * math.log10(float(wave[3000:12_000].square().mean().sqrt()) * 2 * 2**0.5)


def played(clip: Tensor, kind: Kind, max_percent: int = 15, **options: str) -> dict[int, Tensor]:
    """The clip at each speed, by percent."""
    module = kind(seed=1, max_percent=max_percent, probability=1.0, **options)  # type: ignore[arg-type]
    draws = MANY[: 25 * max_percent]
    (percent,) = module.amounts(draws).values()
    first = {int(one): place for place, one in reversed(list(enumerate(percent.nan_to_num(100.0).tolist())))}
    assert set(first) == set(range(100 - max_percent, 101 + max_percent))
    chosen = torch.tensor([int(draws[place]) for place in first.values()])
    return dict(zip(first, module(clip.repeat(len(chosen), 1), chosen), strict=True))


def test_speed_moves_pitch_by_its_percentage_and_tempo_leaves_it() -> None:
    for percent, wave in played(tone(1000), Speed).items():
        assert abs(pitch_hz(wave) - 10 * percent) < 0.2
        assert abs(level_db(wave)) < 0.05
    for wave in played(tone(1000), Tempo).values():
        assert abs(pitch_hz(wave) - 1000) < 0.2
        assert abs(level_db(wave)) < 0.05


def test_a_played_tone_is_pure() -> None:
    """What is not the tone, be it an image, an alias or a seam, is 60 dB below it."""
    for hz in (200, 1000, 4000):
        for percent, wave in played(tone(hz), Speed).items():
            wanted = tone(hz * percent / 100)
            assert (wave - wanted)[500:13_000].square().mean() < 1e-6 * wanted.square().mean()
    for hz in (100, 200, 1000):  # whole periods fit between any two joints
        for wave in played(tone(hz), Tempo).values():
            middle = wave[1000:13_000].double()
            angle = 2 * math.pi * hz * torch.arange(len(middle), dtype=torch.float64) / RATE_HZ
            basis = torch.stack([angle.sin(), angle.cos()], dim=1)
            rest = middle - basis @ torch.linalg.lstsq(basis, middle[:, None]).solution[:, 0]
            assert rest.square().mean() < 1e-6 * middle.square().mean()


def test_a_faster_clip_folds_nothing_back() -> None:
    for hz in (7100, 7500, 7900):
        assert level_db(played(tone(hz), Speed)[115]) < -55
    for hz in (1000, 4000, 5500):
        assert abs(level_db(played(tone(hz), Speed)[115])) < 0.05


@pytest.mark.parametrize(("pad", "fixed"), [("end", 0), ("center", 8000)])
def test_speed_keeps_the_place_that_padding_keeps(pad: str, fixed: int) -> None:
    for impulse in (4000, 8000, 11_000):
        clip = torch.zeros(RATE_HZ)
        clip[impulse] = 0.5
        for percent, wave in played(clip, Speed, 40, pad=pad).items():
            wanted = fixed + (impulse - fixed) * 100 / percent
            if 30 < wanted < RATE_HZ - 30:
                assert abs(int(wave.abs().argmax()) - wanted) <= 1


@pytest.mark.parametrize(("pad", "fixed"), [("end", 0), ("center", 8000)])
def test_tempo_keeps_the_place_that_padding_keeps(pad: str, fixed: int) -> None:
    """A burst of a tone is about as much longer as the tempo is slower, and where it should be."""
    inside = (torch.arange(RATE_HZ) >= 4000) & (torch.arange(RATE_HZ) < 10_000)
    for percent, wave in played(tone(500) * inside, Tempo, pad=pad).items():
        loud = (wave.unfold(0, 160, 1).abs().amax(dim=1) > 0.25).nonzero().flatten()
        for found, place in ((int(loud.min()) + 80, 4000), (int(loud.max()) + 80, 10_000)):
            assert abs(found - (fixed + (place - fixed) * 100 / percent)) < 400


@kinds
def test_what_becomes_shorter_ends_in_zeros_and_what_becomes_longer_is_cropped(kind: Kind) -> None:
    for percent, wave in played(torch.ones(RATE_HZ) * 0.5, kind).items():
        assert wave.shape == (RATE_HZ,)
        ends = RATE_HZ * 100 / percent
        assert (wave[500 : int(min(ends, RATE_HZ)) - 700] > 0.3).all()
        if ends < RATE_HZ - 700:
            assert not wave[int(ends) + 700 :].any()


@kinds
def test_every_percentage_is_as_likely_and_100_leaves_the_clip_as_it_is(kind: Kind) -> None:
    module = kind(seed=1, max_percent=5, probability=0.6)
    (percent,) = module.amounts(MANY).values()
    counts = torch.bincount(percent[~percent.isnan()].long(), minlength=106)[95:]
    others = counts[counts > 0].double()
    assert counts[5] == 0
    assert len(others) == 10
    wanted = 4000 * 0.6 / 11
    assert ((others - wanted) ** 2 / wanted).sum() < 30  # about 10 degrees of freedom
    clip = torch.rand(200, 1600) - 0.5
    happens = ~percent[:200].isnan()
    assert torch.equal(module(clip, MANY[:200])[~happens], clip[~happens])


@kinds
@pytest.mark.parametrize("pad", ["end", "center"])
@pytest.mark.parametrize("samples", [1, 99, 400, 513, 1601])
def test_any_length_and_half_to_one_and_a_half_of_the_speed_will_do(kind: Kind, pad: str, samples: int) -> None:
    module = kind(seed=1, max_percent=50, probability=1.0, pad=pad)  # type: ignore[arg-type]
    assert module(torch.rand(300, samples) - 0.5, MANY[:300]).shape == (300, samples)
    assert not module(torch.zeros(300, samples), MANY[:300]).any()


def test_the_most_alike_stretch_is_found() -> None:
    torch.manual_seed(0)
    searched, follows = (torch.randint(-127, 128, (50, length)).float() for length in (240 + 128, 128))
    searched[0], follows[1] = 0.0, 0.0
    place = torch.arange(2, 50) * 4 % 240
    for row, first in enumerate(place.tolist(), 2):
        searched[row, first : first + 128] = follows[row] / 2  # likeness is not loudness
    assert torch.equal(_most_alike(searched.round(), follows)[2:], place)
    windows = searched.round().unfold(1, 128, 1)[:, :240].double()
    likeness = (windows @ follows.double()[:, :, None])[..., 0] / windows.square().sum(dim=2).clamp(min=1).sqrt()
    assert torch.equal(_most_alike(searched.round(), follows), likeness.argmax(dim=1))
