"""Reverberation: an impulse becomes the response, nothing moves, and rounding has no say."""

import numpy as np
import torch
from torch import Tensor

from kws_dist.frontend.reverb import Reverb

SAMPLES = 1600
MANY = torch.arange(2000)


def response(samples: int = 500, direct: int = 40) -> Tensor:
    torch.manual_seed(samples)
    made = torch.randn(samples) * torch.exp(-torch.arange(samples) / 80.0) * 0.2
    made[direct] = 3.0
    return made


def test_an_impulse_becomes_the_response_with_unit_energy_and_its_direct_sound_in_place() -> None:
    reverb = Reverb([response()], seed=1, probability=1.0, clip_samples=SAMPLES)
    wave = torch.zeros(1, SAMPLES)
    wave[0, 300] = 0.5
    heard = reverb(wave, MANY[:1])[0]
    assert int(heard.abs().argmax()) == 300
    wanted = response()[24:] / response()[24:].norm() * 0.5  # from 1 ms before the direct sound
    torch.testing.assert_close(heard[284 : 284 + len(wanted)], wanted, rtol=0, atol=2e-5)
    assert not heard[:284].any()
    assert not heard[284 + len(wanted) :].any()


def test_speech_is_about_as_loud_as_before() -> None:
    reverb = Reverb([response()], seed=1, probability=1.0, clip_samples=SAMPLES)
    wave = torch.randn(200, SAMPLES).mul_(0.1).clamp_(-1, 1)
    assert 0.95 < reverb(wave, MANY[:200]).square().mean() / wave.square().mean() < 1.05


def test_the_convolution_is_exact_in_integers() -> None:
    """As numpy's, which adds integers, also for the loudest clips and the longest response."""
    torch.manual_seed(0)
    samples = 16_000
    longest = torch.randn(samples).sign()
    reverb = Reverb([longest], seed=1, probability=1.0, clip_samples=samples)
    pcm = torch.randint(-1500, 1500, (2, samples))
    pcm[1] = longest.flip(0) * 32_767 / 256  # adds up to the most
    heard = reverb(pcm / 32_768, MANY[:2]).double()
    taps = reverb.responses[0].long().numpy()
    for row, clip in zip(heard, pcm.long().numpy(), strict=True):
        exact = torch.from_numpy(np.convolve(clip, taps)[16 : 16 + samples].astype(np.float64)) * 2.0**-29
        assert torch.equal(row, exact.float().clamp(-1, 1).double())


def test_the_sum_is_within_a_hundredth_of_an_integer_before_it_is_rounded() -> None:
    """So whoever sums in another order rounds to the same."""
    torch.manual_seed(0)
    clip = torch.randint(-32_768, 32_768, (4, 16_000)).double()
    reverb = Reverb([torch.randn(16_000)], seed=1, probability=1.0, clip_samples=16_000)
    spectra = (torch.fft.rfft(one.double(), reverb.fft_samples) for one in (clip, reverb.responses))
    convolved = torch.fft.irfft(next(spectra) * next(spectra), reverb.fft_samples)
    assert (convolved - convolved.round()).abs().max() < 0.01


def test_every_response_is_as_likely_and_so_many_clips_hear_none() -> None:
    responses = [response(300 + 10 * i, direct=i) for i in range(5)]
    reverb = Reverb(responses, seed=1, probability=0.6, clip_samples=SAMPLES)
    number = reverb.amounts(MANY)["reverb_response"]
    assert abs(number.isnan().double().mean() - 0.4) < 0.04
    counts = torch.bincount(number[~number.isnan()].long(), minlength=5)
    assert ((counts - 240) ** 2 / 240).sum() < 20  # 5 degrees of freedom
    impulse = torch.zeros(50, SAMPLES)
    impulse[:, 100] = 0.25
    heard = reverb(impulse, MANY[:50])
    for row, which in zip(heard, number[:50].tolist(), strict=True):
        if which != which:
            assert torch.equal(row, impulse[0])
        else:
            alone = Reverb([responses[int(which)]], seed=9, probability=1.0, clip_samples=SAMPLES)
            assert torch.equal(row, alone(impulse[:1], MANY[:1])[0])
