"""Figures of an evaluation, and the clips that did worst in it, on one process and on two."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launching import python, run, two_ranks
from torch.nn import functional as F

from kws_dist.evaluation.evaluate import Evaluation
from kws_dist.evaluation.worst import WorstClips
from kws_dist.shards.read import open_dataset

pytestmark = pytest.mark.dist

SCRIPT = "tests/evaluation/evaluating.py"
Results = dict[str, Any]


@pytest.fixture(scope="module")
def alone(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    file = tmp_path_factory.mktemp("alone") / "results.json"
    run(python(SCRIPT, file, tiny_dataset))
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def together(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    file = tmp_path_factory.mktemp("together") / "results.json"
    run(two_ranks(SCRIPT, file, tiny_dataset))
    return json.loads(file.read_text())


def clips(result: Results) -> list[int]:
    return [one["clip"] for one in result["worst"]]


@pytest.mark.parametrize("model", ["some", "indifferent", "broken", "unbounded"])
@pytest.mark.parametrize("worst", [0, 5, 1000])
def test_two_ranks_find_the_same_worst_clips_as_one(alone: Results, together: Results, model: str, worst: int) -> None:
    one, two = alone[f"{model} {worst}"], together[f"{model} {worst}"]
    assert clips(one) == clips(two)
    assert len(clips(one)) == min(worst, one["figures"]["n"])
    for a, b in zip(one["worst"], two["worst"], strict=True):
        assert a == pytest.approx(b, nan_ok=True, rel=1e-5)
    assert one["figures"]["confusion"] == two["figures"]["confusion"]


def test_each_clip_is_there_once_the_worst_first(alone: Results) -> None:
    result = alone["some 1000"]
    assert sorted(clips(result)) == list(range(result["figures"]["n"]))
    losses = [one["loss"] for one in result["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert np.mean(losses) == pytest.approx(result["loss"])
    assert clips(alone["some 5"]) == clips(result)[:5]


def test_the_worst_clips_agree_with_the_counts(alone: Results, tiny_dataset: Path) -> None:
    result, labels = alone["some 1000"], open_dataset(tiny_dataset).rows("train").label
    confusion = np.zeros((3, 3), int)
    for one in result["worst"]:
        confusion[labels[one["clip"]], one["predicted"]] += 1
        assert 1 / 3 <= one["probability"] <= 1
    assert confusion.tolist() == result["figures"]["confusion"]


def test_of_equal_losses_the_first_clips_are_taken(alone: Results) -> None:
    assert clips(alone["indifferent 5"]) == [0, 1, 2, 3, 4]


def test_logits_that_are_not_finite_show_and_break_nothing(alone: Results, together: Results) -> None:
    for results in (alone, together):
        for name in ("broken 5", "unbounded 5"):
            result = results[name]
            assert math.isnan(result["loss"]) or math.isinf(result["loss"])
            assert result["figures"]["loss"] is None
            json.dumps(result["figures"], allow_nan=False)
            assert result["figures"]["n"] == sum(map(sum, result["figures"]["confusion"]))
        bad = [not math.isfinite(one["loss"]) for one in results["broken 1000"]["worst"]]
        assert any(bad)
        assert bad == sorted(bad, reverse=True), "nothing is worse than what is no number"


def test_a_model_is_left_in_evaluation(alone: Results) -> None:
    assert not any(result["in_training"] for result in alone.values())


def test_figures_follow_from_the_counts() -> None:
    evaluation = Evaluation(np.array([[6, 2, 0], [0, 0, 0], [1, 0, 1]]), loss=0.5)
    assert evaluation.figures(["yes", "no", "up"]) == {
        "accuracy": 0.7,
        "loss": 0.5,
        "balanced_accuracy": 0.625,
        "worst_word_recall": 0.5,
        "recall/yes": 0.75,
        "recall/up": 0.5,
    }
    figures = evaluation.as_dict(["yes", "no", "up"])
    assert (figures["balanced_accuracy"], figures["worst_word_recall"]) == (0.625, 0.5)


@given(
    losses=st.lists(st.sampled_from([0.0, -0.0, 1e-30, 0.5, 0.5000001, 3.0, math.inf, math.nan]), max_size=40),
    count=st.integers(1, 6),
    batch=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_the_same_clips_are_kept_whatever_came_when(losses: list[float], count: int, batch: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(losses))
    kept = WorstClips(count, torch.device("cpu"))
    for first in range(0, len(order), batch):
        clip = torch.from_numpy(order[first : first + batch])
        some = torch.tensor([losses[number] for number in clip])
        kept.add(clip, some, torch.zeros(len(clip), 2), torch.ones(len(clip), dtype=torch.bool))
    finite = [value if math.isfinite(value) else math.inf for value in np.float32(losses).tolist()]
    expected = sorted(range(len(losses)), key=lambda clip: (-finite[clip], clip))[:count]
    assert [one.clip for one in kept.clips()] == expected


def test_what_only_fills_a_batch_up_is_never_a_worst_clip() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    losses = F.cross_entropy(logits, torch.tensor([0, 0, 0]), reduction="none")
    kept = WorstClips(3, torch.device("cpu"))
    kept.add(torch.tensor([7, 8, 8]), losses, logits, torch.tensor([True, True, False]))
    worst, best = kept.clips()
    assert (worst.clip, worst.predicted, best.clip, best.predicted) == (8, 1, 7, 0)
    assert worst.loss == pytest.approx(math.log(1 + math.e))
    assert worst.probability == pytest.approx(math.e / (1 + math.e))
