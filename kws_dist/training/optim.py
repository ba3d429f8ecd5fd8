"""Optimizers, the learning rate as one pure function of the step, and the average of the weights."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
    """Exponential moving average of weights and batch-norm statistics, by the function of torch's `AveragedModel`.

    The class itself looks every tensor up anew at each update, which costs a small model 3 % of its step.

    The decay starts low, `(1 + n) / (10 + n)`, so that the random first weights are soon forgotten (as in
    TensorFlow's `ExponentialMovingAverage` with `num_updates`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.module = copy.deepcopy(model).requires_grad_(False)
        """The averaged model; until the first update, the model as it was."""
        self._averaged, self._current = _floats(self.module), _floats(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's weights after optimizer step `step`, counted from 0, in."""
        decay = min(self._decay, (1 + step) / (10 + step)) if step else 0.0
        get_ema_multi_avg_fn(decay)(self._averaged, self._current, None)  # pyright: ignore[reportArgumentType]


def _floats(model: nn.Module) -> list[Tensor]:
    """Return the weights and statistics to average; batch norm's counters of batches are none."""
    tensors = (*model.parameters(), *model.buffers())
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
