"""How fast a model is can be told in about two seconds, without changing the model."""

import time
from pathlib import Path

import pytest
import torch

from kws_dist import latency
from kws_dist.training.rebuild import rebuild


def test_it_measures_a_model_and_leaves_it_as_it_was(trained_run: Path) -> None:
    trained = rebuild(trained_run)
    trained.model.train()
    before, random = {key: one.clone() for key, one in trained.model.state_dict().items()}, torch.get_rng_state()
    speed = latency.measure(trained.front_end, trained.model, 16_000, torch.device("cpu"))
    assert trained.model.training
    assert all(torch.equal(one, before[key]) for key, one in trained.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert 0 < speed.latency_ms < 1000
    assert speed.latency_p95_ms > 0
    assert speed.batch > 1
    assert speed.clips_per_s > 0
    assert "cpu" in speed.device
    assert f"{speed.latency_ms:.2f} ms" in str(speed)


def test_a_slow_model_gets_smaller_batches_and_no_more_than_its_time(trained_run: Path) -> None:
    trained = rebuild(trained_run)
    layers = [torch.nn.Conv2d(1 if first else 64, 64, 11, padding=5) for first in (True, False)]
    slow = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    begin_s = time.perf_counter()
    speed = latency.measure(trained.front_end, slow, 16_000, torch.device("cpu"))
    assert time.perf_counter() - begin_s < 10
    assert speed.batch < 64


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 3.0), ([1.0] * 95 + [9.0] * 5, 1.0), ([1.0] * 9 + [9.0], 9.0)]
)
def test_95_of_100_take_no_longer(values: list[float], expected: float) -> None:
    assert latency._percentile(values, 0.95) == expected
