"""The learning rate as one pure function of the step."""

import math
from collections.abc import Callable

from kws_dist.config import TrainConfig
from kws_dist.training.timetable import run_length

_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 250_000


def learning_rate(step: int, train: TrainConfig, *, steps_per_epoch: int) -> float:
    """Return the rate of optimizer step `step` (from 0).

    It rises to `train.learning_rate` for `train.warmup_epochs`, and then goes the way of `train.schedule`:

    - cosine: half a cosine (SGDR without restarts, arXiv 1608.03983, eq. 5), BC-ResNet's published schedule;
    - linear: a line;
    - exponential: by one factor in each step, as `exp` in kws_streaming (arXiv 2005.06720); all three end at
      `final_share` of the peak, which the first step after the last would have;
    - hold: polynomial hold-decay, the schedule of MatchboxNet in NeMo: held, then `(1 - progress) ** decay_power`;
    - step: times `step_factor` at each of `step_epochs`;
    - one_cycle: Smith and Topin, arXiv 1708.07120, with two cosines as torch's OneCycleLR; momentum is not cycled;
    - constant.
    """
    total, warmup = run_length(train, steps_per_epoch), round(train.warmup_epochs * steps_per_epoch)
    if train.schedule == "one_cycle":
        return train.learning_rate * _one_cycle(step, warmup, total)
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    if train.schedule == "step":
        drops = sum(step >= round(epoch * steps_per_epoch) for epoch in train.step_epochs)
        return train.learning_rate * train.step_factor**drops
    if train.schedule == "exponential":
        return train.learning_rate * train.final_share ** ((step - warmup) / max(total - warmup, 1))
    hold = round(train.hold_epochs * steps_per_epoch) if train.schedule == "hold" else 0
    progress = min(max((step - warmup - hold) / max(total - warmup - hold, 1), 0.0), 1.0)
    falls_to = _SHAPES[train.schedule](progress, train.decay_power)
    return train.learning_rate * (train.final_share + (1.0 - train.final_share) * falls_to)


def _half_cosine(progress: float) -> float:
    """Return 1 at progress 0, 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _one_cycle(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return 1.0 + (_ONE_CYCLE_START - 1.0) * _half_cosine(step / warmup)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return _ONE_CYCLE_END + (1.0 - _ONE_CYCLE_END) * _half_cosine(progress)


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda progress, _: _half_cosine(progress),
    "linear": lambda progress, _: 1.0 - progress,
    "hold": lambda progress, power: (1.0 - progress) ** power,
    "constant": lambda _, __: 1.0,
}
"""From progress in [0, 1] and the power to a share of the peak."""
