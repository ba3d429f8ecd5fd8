"""Features of mean 0 and deviation 1, and the statistics for it."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import sounds
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.frontend.features import LogMel, build_features
from kws_dist.frontend.normalize import Statistics, feature_statistics


@pytest.fixture(scope="module")
def waves() -> Tensor:
    return sounds()


def test_each_clip_is_normalised_over_its_whole_map(waves: Tensor) -> None:
    plain, made = LogMel()(waves), LogMel(normalize="clip")(waves)
    for clip in (0, 1, 2, 3, 4, 5, 7, 8):
        wanted = (plain[clip] - plain[clip].mean()) / plain[clip].std(correction=0)
        torch.testing.assert_close(made[clip], wanted, rtol=0, atol=1e-4)


def test_a_clip_is_normalised_to_the_same_however_loud_it_was(waves: Tensor) -> None:
    made = build_features("waveform", normalize="clip")
    torch.testing.assert_close(made(waves[:5] / 8), made(waves[:5]))


def test_silence_becomes_zeros(waves: Tensor) -> None:
    for kind in ("logmel", "mfcc", "spectrogram", "waveform"):
        made = build_features(kind, normalize="clip")(waves[6:7])  # type: ignore[arg-type]
        if kind == "mfcc":  # of which one is not 0, in every frame
            assert made[0, 0, 1:].std() < 1e-3
        else:
            assert not made.any()


@given(cuts=st.lists(st.integers(1, 59), max_size=5, unique=True))
@settings(deadline=None, max_examples=15)
def test_statistics_are_those_of_all_frames_however_the_clips_are_batched(cuts: list[int]) -> None:
    torch.manual_seed(0)
    wave = torch.randn(60, 800) * torch.rand(60, 1) + 0.3
    features = LogMel(mels=5)
    found = feature_statistics(features, wave.tensor_split(sorted(cuts)) if cuts else [wave])
    values = features(wave).double().permute(2, 0, 1, 3).flatten(1)
    torch.testing.assert_close(torch.tensor(found.mean).double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor(found.std).double(), values.std(1, correction=0), rtol=1e-6, atol=1e-6)


def test_a_dataset_normalised_by_its_statistics_has_mean_0_and_deviation_1_in_every_bin(waves: Tensor) -> None:
    statistics = feature_statistics(LogMel(), waves.split(3))
    made = build_features("logmel", normalize="dataset", statistics=statistics)(waves)
    again = feature_statistics(lambda wave: made[: len(wave)], [waves])  # type: ignore[arg-type]
    torch.testing.assert_close(torch.tensor(again.mean), torch.zeros(40), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(again.std), torch.ones(40), rtol=0, atol=1e-4)


def test_a_bin_that_never_varies_becomes_0(waves: Tensor) -> None:
    statistics = feature_statistics(LogMel(), [waves[6:7]])
    assert max(statistics.std) < 1e-6
    made = build_features("logmel", normalize="dataset", statistics=statistics)(waves[6:7])
    assert made.abs().max() < 1


def test_statistics_survive_json_to_the_last_bit(waves: Tensor) -> None:
    statistics = feature_statistics(LogMel(mels=7), [waves])
    assert Statistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"mean": [], "std": []},
        {"mean": [1.0, 2.0], "std": [1.0]},
        {"mean": [1.0], "std": [-1.0]},
        {"mean": [float("nan")], "std": [1.0]},
        {"mean": ["1"], "std": [1.0]},
        {"mean": 1.0, "std": 1.0},
    ],
    ids=str,
)
def test_what_is_no_statistics_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no feature statistics"):
        Statistics.from_json(stored)


def test_statistics_of_other_features_are_refused() -> None:
    with pytest.raises(UsageError, match="of 3 feature bins and the features have 40"):
        build_features("logmel", normalize="dataset", statistics=Statistics((0.0,) * 3, (1.0,) * 3))


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="no clip"):
        feature_statistics(LogMel(), [])
