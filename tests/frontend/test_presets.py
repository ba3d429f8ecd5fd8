"""The front ends of published recipes."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.features import Features
from kws_dist.frontend.normalize import Statistics
from kws_dist.frontend.presets import PRESETS, preset

SHAPES = {
    "bcresnet": (40, 101),
    "matchboxnet": (64, 101),
    "ds_tc_resnet": (40, 98),
    "kwt": (40, 98),
    "kws_streaming": (20, 49),
    "mhatt_rnn": (20, 49),
    "ml_kws": (10, 49),
    "mlperf_tiny": (10, 49),
    "tc_resnet": (40, 98),
    "res15": (40, 101),
    "att_rnn": (80, 126),
    "wekws_gru": (40, 98),
    "wekws_mdtc": (80, 98),
    "xvector": (24, 101),
    "m5": (1, 8000),
}
"""Bins and frames of one second, as the models of the recipes take them."""


def made(name: str, wave: Tensor) -> Tensor:
    settings = FeatureSettings(**preset(name))
    statistics = Statistics((0.0,) * settings.bins, (1.0,) * settings.bins)
    return Features(settings, statistics=statistics)(wave)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_the_shape_that_its_recipe_has(name: str) -> None:
    torch.manual_seed(0)
    features = made(name, torch.randn(2, 16_000) * 0.1)
    assert features.shape == (2, 1, *SHAPES[name])
    assert features.isfinite().all()
    assert features.std() > 0.05


@pytest.mark.parametrize("name", PRESETS)
def test_no_bin_of_a_preset_is_always_the_same(name: str) -> None:
    """As it would be if there were too many bands for the length of the transform."""
    torch.manual_seed(0)
    assert (made(name, torch.randn(2, 16_000)).std(dim=(0, 1, 3)) > 1e-3).all()


def test_every_preset_cites_its_source_and_says_its_settings_by_the_names_they_have() -> None:
    known = {field.name for field in fields(FeatureSettings)}
    for name, of in PRESETS.items():
        assert of.source, name
        assert set(of.settings) < known, name


def test_the_first_preset_is_what_there_is_without_one() -> None:
    assert FeatureSettings(**preset("bcresnet")) == FeatureSettings()


def test_a_preset_can_be_changed_without_changing_it_for_others() -> None:
    preset("kwt")["mels"] = 3
    assert preset("kwt")["mels"] == 80


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"--features.preset 'bcresnet8' is none of bcresnet, matchboxnet, .*, m5$"):
        preset("bcresnet8")
