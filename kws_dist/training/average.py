"""An average of the weights over time."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
        for module in self.module.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # a copy is in pieces, which cuDNN would join anew for each batch
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
