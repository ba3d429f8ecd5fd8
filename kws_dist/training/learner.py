"""What is learnt: weights, their average and the optimizer's memory, and how these go to a checkpoint and back."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kws_dist import keyed, models
from kws_dist.config import Config
from kws_dist.frontend.normalize import Statistics
from kws_dist.training.optim import MovingAverage, build_optimizer

_WEIGHTS = 3001  # what a key is for; see `frontend.augment.Purpose`


@dataclass
class Learner:
    """A model in training."""

    model: nn.Module
    optimizer: Optimizer
    average: MovingAverage | None
    statistics: Statistics | None = None
    """Of the training features, where these are normalised by them."""

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy counts: the average, where there is one."""
        return self.average.module if self.average else self.model

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors of a checkpoint, by file."""
        tensors = {"weights": dict(self.model.state_dict()), "optimizer": _optimizer_tensors(self.optimizer)}
        if self.average:
            tensors["average"] = dict(self.average.module.state_dict())
        return tensors

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Take over the tensors and the state of a checkpoint."""
        self.statistics = stored_statistics(state)
        self.model.load_state_dict(tensors["weights"])
        _load_optimizer_tensors(self.optimizer, tensors["optimizer"])
        if self.average:
            self.average.module.load_state_dict(tensors["average"])


def build_model(config: Config, num_classes: int) -> nn.Module:
    """Build the model, as wide as the features if it has to know that."""
    params = config.model.params
    if "mels" in models.list_params(config.model.name):
        params = {"mels": config.features.bins} | params
    return models.build(config.model.name, num_classes=num_classes, **params)


def stored_statistics(state: dict[str, Any]) -> Statistics | None:
    """Return the feature statistics in the state of a checkpoint, if it has some."""
    stored = state.get("feature_statistics")
    return Statistics.from_json(stored) if stored else None


def build_learner(config: Config, *, num_classes: int, device: torch.device) -> Learner:
    """Build a model with weights drawn from the seed, on the device, with its optimizer."""
    torch.manual_seed(keyed.fold(config.seed, _WEIGHTS) & (2**63 - 1))
    model = build_model(config, num_classes).to(device)
    optimizer = build_optimizer(
        model,
        config.train.optimizer,
        momentum=config.train.momentum,
        nesterov=config.train.nesterov,
        weight_decay=config.train.weight_decay,
    )
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    return Learner(model, optimizer, average)


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Flatten the state to `{"<parameter number>.<name>": tensor}`; rates and the like come from the settings."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, slots in state.items() for name, tensor in slots.items()}


def _load_optimizer_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
