"""Settings of training that cannot be, found before anything is built."""

import math
from dataclasses import fields

from kws_dist.config import TrainConfig
from kws_dist.errors import UsageError
from kws_dist.training.progress import LAST

_AT_LEAST_ONE = ("epochs", "eval_every_epochs", "log_every_steps", "max_bad_steps", "bucket_mb")
_SHARES = ("momentum", "beta2", "label_smoothing", "ema_decay")
_UP_TO_ONE = ("layer_decay", "step_factor", "final_share", "rollback_factor")


def check(train: TrainConfig) -> None:
    """Raise `UsageError` for the first of the settings that makes no sense."""
    for field in fields(train):
        value = getattr(train, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not (math.isfinite(number) and number >= 0):
                _refuse(field.name, number, "a finite number of 0 or more")
    for name in _AT_LEAST_ONE:
        if getattr(train, name) < 1:
            _refuse(name, getattr(train, name), "1 or more")
    for name in _SHARES:
        if getattr(train, name) >= 1.0:
            _refuse(name, getattr(train, name), "from 0 to below 1")
    for name in _UP_TO_ONE:
        if getattr(train, name) > 1.0:
            _refuse(name, getattr(train, name), "from 0 to 1")
    if train.layer_decay == 0.0:
        _refuse("layer_decay", 0.0, "above 0; to keep layers as they are, use --train.train_last_layers")
    if not 0.0 < train.teacher_weight <= 1.0:
        _refuse("teacher_weight", train.teacher_weight, "above 0 and at most 1")
    if train.teacher_temperature == 0.0:
        _refuse("teacher_temperature", 0.0, "above 0")
    if train.nesterov and train.optimizer == "sgd" and train.momentum == 0.0:
        _refuse("nesterov", True, "off where --train.momentum is 0")
    if train.precision == "fp16" and train.optimizer in ("muon", "novograd"):
        _refuse(
            "precision", "fp16", f"bf16 or fp32 with --train.optimizer {train.optimizer}, which cannot scale gradients"
        )
    if train.patience_epochs and train.best_by == LAST:
        _refuse("patience_epochs", train.patience_epochs, f"0 with --train.best_by {LAST}, by which each is an advance")
    if train.schedule == "exponential" and train.final_share == 0.0:
        _refuse("final_share", 0.0, "above 0 with --train.schedule exponential, which never gets to 0")
    if train.schedule == "step" and list(train.step_epochs) != sorted(train.step_epochs):
        _refuse("step_epochs", " ".join(map(str, train.step_epochs)), "in rising order")


def _refuse(name: str, value: object, should_be: str) -> None:
    raise UsageError(f"--train.{name} {value} should be {should_be}")
