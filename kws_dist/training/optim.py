"""Optimizers, the learning rate as one pure function of the step, and the average of the weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_optimizer(model: nn.Module, name: str, *, momentum: float, nesterov: bool, weight_decay: float) -> Optimizer:
    """Build a fused optimizer, whose one kernel can skip a step that the device finds bad (`found_inf`)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "sgd":
        optimizer = torch.optim.SGD(
            parameters, lr=0.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True
        )
        if momentum:
            # A zero buffer gives the same first step as none, and survives a first step that is skipped.
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=0.0, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True)


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of optimizer step `step` (from 0): linear warm-up from 0, then half a cosine down to 0.

    The schedule of BC-ResNet's published recipe (arXiv 2106.04140, section 4.1), stepped each step.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class MovingAverage:
    """Exponential moving average of weights and batch-norm statistics, by torch's `AveragedModel`.

    The decay starts low, `(1 + n) / (10 + n)`, so that the random first weights are soon forgotten (as in
    TensorFlow's `ExponentialMovingAverage` with `num_updates`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self._current_decay = model, decay, 0.0
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        self._averaged.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The averaged model."""
        return self._averaged.module

    def update(self, step: int) -> None:
        """Take the model's weights after optimizer step `step` in."""
        self._current_decay = min(self._decay, (1 + step) / (10 + step))
        self._averaged.update_parameters(self._model)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from averaged weights, the `state_dict` of `module`."""
        self.module.load_state_dict(weights)
        self._averaged.n_averaged.fill_(1)  # anything but 0, where the first update would overwrite them

    def _average(self, averaged: Any, current: Any, n_averaged: Any) -> None:
        get_ema_multi_avg_fn(self._current_decay)(averaged, current, n_averaged)
