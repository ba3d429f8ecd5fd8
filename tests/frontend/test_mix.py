"""Mix-up and cut-mix: what is heard of the partner is what its label gets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.frontend.chance import probabilities
from kws_dist.frontend.mix import Mix, beta_quantiles

SAMPLES = 500
MANY = torch.arange(6000)


def mix_of(**settings: float) -> Mix:
    return Mix(seed=1, clip_samples=SAMPLES, **settings)  # type: ignore[arg-type]


def test_a_mixed_up_wave_holds_the_shares_of_its_label() -> None:
    torch.manual_seed(0)
    mix = mix_of(mixup_probability=0.7, mixup_alpha=0.4)
    time = torch.arange(SAMPLES) / SAMPLES * 2 * torch.pi
    own, partner = torch.sin(5 * time), torch.sin(9 * time)  # orthogonal, so each can be measured in the sum
    mixed, share = mix(own.expand(300, -1), partner.expand(300, -1), MANY[:300]), mix.shares(MANY[:300])
    for basis, wanted in ((own, 1 - share), (partner, share)):
        torch.testing.assert_close(mixed @ basis / (SAMPLES / 2), wanted, rtol=0, atol=1e-5)
    assert torch.equal(mixed[share == 0], own.expand(300, -1)[share == 0])
    assert 0.2 < (share == 0).float().mean() < 0.4


def test_a_cut_mixed_wave_holds_one_stretch_of_the_partner_as_long_as_its_share() -> None:
    mix = mix_of(cutmix_probability=0.7)
    own, partner = torch.full((400, SAMPLES), 0.25), torch.linspace(-1, 1, SAMPLES).expand(400, -1)
    mixed, share = mix(own, partner, MANY[:400]), mix.shares(MANY[:400])
    amounts = mix.amounts(MANY[:400])
    for row, (wave, part) in enumerate(zip(mixed, share.tolist(), strict=True)):
        length = round(part * SAMPLES)
        inside = torch.zeros(SAMPLES, dtype=torch.bool)
        if length:
            first = int(amounts["cutmix_first_samples"][row])
            assert amounts["cutmix_samples"][row] == length
            inside[first : first + length] = True
            assert inside.sum() == length
        assert torch.equal(wave, torch.where(inside, partner[0], own[0]))
        assert part == np.float32(length) / np.float32(SAMPLES)


def test_a_clip_gets_mix_up_or_cut_mix_or_neither_as_often_as_asked() -> None:
    mix = mix_of(mixup_probability=0.3, cutmix_probability=0.5)
    amounts = mix.amounts(MANY)
    mixed, cut = (~amounts[name].isnan() for name in ("mixup_share", "cutmix_samples"))
    assert not (mixed & cut).any()
    assert abs(mixed.double().mean() - 0.3) < 0.02
    assert abs(cut.double().mean() - 0.5) < 0.02
    share = mix.shares(MANY)
    assert torch.equal(share > 0, mixed | cut)
    assert share.min() >= 0
    assert share.max() <= 1


def test_stretches_are_of_any_length_and_anywhere() -> None:
    amounts = mix_of(cutmix_probability=1.0).amounts(MANY)
    length, first = (amounts[name].nan_to_num(0.0) for name in ("cutmix_samples", "cutmix_first_samples"))
    assert (first + length).max() == SAMPLES
    counts = torch.histc(length, bins=10, min=0, max=SAMPLES)
    assert ((counts - 600) ** 2 / 600).sum() < 35  # 9 degrees of freedom
    place = first / (SAMPLES - length)
    short = length < 400
    counts = torch.histc(place[short], bins=10, min=0, max=1)
    wanted = short.sum() / 10
    assert ((counts - wanted) ** 2 / wanted).sum() < 35


@pytest.mark.parametrize("settings", [{"mixup_probability": 0.6}, {"cutmix_probability": 0.6}])
def test_mixing_is_a_function_of_seed_and_draw_whatever_the_batch(settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    mix, (own, partner) = mix_of(**settings), torch.rand(2, 40, SAMPLES)
    whole, shares = mix(own, partner, MANY[:40]), mix.shares(MANY[:40])
    assert torch.equal(
        torch.cat([mix(own[i : i + 3], partner[i : i + 3], MANY[i : i + 3]) for i in range(0, 40, 3)])[:40], whole
    )
    assert torch.equal(torch.cat([mix.shares(MANY[i : i + 1]) for i in range(40)]), shares)
    assert not torch.equal(shares, Mix(seed=2, clip_samples=SAMPLES, **settings).shares(MANY[:40]))  # type: ignore[arg-type]


@given(alpha=st.floats(0.05, 200.0))
@settings(deadline=None, max_examples=40)
def test_shares_have_the_mean_and_the_spread_of_a_beta_distribution(alpha: float) -> None:
    quantiles = beta_quantiles(alpha, probabilities())
    assert (np.diff(quantiles) >= 0).all()
    np.testing.assert_allclose(quantiles + quantiles[::-1], 1.0, atol=1e-9)
    np.testing.assert_allclose(quantiles.var(), 1 / (4 * (2 * alpha + 1)), rtol=3e-3)


def test_quantiles_are_those_of_distributions_with_a_formula() -> None:
    at = np.linspace(0.001, 0.999, 97)
    np.testing.assert_allclose(beta_quantiles(1.0, at), at, atol=1e-6)
    np.testing.assert_allclose(beta_quantiles(0.5, at), np.sin(np.pi / 2 * at) ** 2, atol=1e-6)  # the arcsine law
    cumulated = beta_quantiles(2.0, at)
    np.testing.assert_allclose(3 * cumulated**2 - 2 * cumulated**3, at, atol=1e-6)
