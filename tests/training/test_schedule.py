"""The learning rate is one pure function of the step, whatever the schedule."""

import itertools
from typing import Any

import pytest
import torch

from kws_dist.config import TrainConfig
from kws_dist.training.schedule import learning_rate

STEPS_PER_EPOCH = 10


def rates(schedule: Any, **settings: Any) -> list[float]:
    train = TrainConfig(**{"epochs": 10, "warmup_epochs": 1, "learning_rate": 0.1, "schedule": schedule, **settings})
    return [learning_rate(step, train, steps_per_epoch=STEPS_PER_EPOCH) for step in range(100)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential", "step", "hold", "constant"])
def test_the_rate_rises_along_a_line_to_its_peak(schedule: str) -> None:
    assert rates(schedule, final_share=0.1)[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])


def test_cosine_falls_to_zero() -> None:
    values = rates("cosine")
    assert all(later < earlier for earlier, later in itertools.pairwise(values[10:]))
    assert values[55] == pytest.approx(0.05)
    assert 0 < values[-1] < 1e-4


def test_linear_is_a_line_to_its_last_share() -> None:
    values = rates("linear", final_share=0.1)
    assert values[55] == pytest.approx(0.1 * (0.1 + 0.9 * 0.5))
    falls = [earlier - later for earlier, later in itertools.pairwise(values[10:])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert values[-1] == pytest.approx(0.01 + falls[0])


def test_exponential_falls_by_one_factor_to_its_last_share() -> None:
    values = rates("exponential", final_share=0.02)
    factors = [later / earlier for earlier, later in itertools.pairwise(values[10:])]
    assert factors == pytest.approx([0.02 ** (1 / 90)] * len(factors))
    assert values[10] == pytest.approx(0.1)
    assert values[-1] * factors[0] == pytest.approx(0.002)


def test_step_drops_at_its_epochs_only() -> None:
    values = rates("step", step_epochs=(4.0, 7.5), step_factor=0.5)
    assert values[10:40] == pytest.approx([0.1] * 30)
    assert values[40:75] == pytest.approx([0.05] * 35)
    assert values[75:] == pytest.approx([0.025] * 25)


def test_hold_stays_and_then_falls_as_its_power_says() -> None:
    values = rates("hold", hold_epochs=4, decay_power=2.0)
    assert values[10:51] == pytest.approx([0.1] * 41)
    assert values[75] == pytest.approx(0.1 * 0.5**2)


@pytest.mark.parametrize("warmup_epochs", [3.0, 4.5])
def test_one_cycle_is_that_of_torch(warmup_epochs: float) -> None:
    """torch counts its way up to the step before the peak, and down to the last step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    share = (warmup_epochs * STEPS_PER_EPOCH + 1) / 101
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=101, pct_start=share)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates("one_cycle", warmup_epochs=warmup_epochs) == pytest.approx(expected)


def test_constant_stays() -> None:
    assert rates("constant", warmup_epochs=0) == pytest.approx([0.1] * 100)


def test_without_a_warm_up_the_first_step_has_the_peak() -> None:
    for schedule in ("cosine", "linear", "exponential", "step", "hold"):
        assert rates(schedule, warmup_epochs=0, final_share=0.1)[0] == pytest.approx(0.1)
