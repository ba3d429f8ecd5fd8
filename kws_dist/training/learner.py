"""What is learnt: weights, their average and the optimizer's memory, and how these go to a checkpoint and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.assemble import model_of
from kws_dist.config import Config, FeaturesConfig, load_text
from kws_dist.errors import DataError
from kws_dist.frontend.normalize import Statistics
from kws_dist.training.average import MovingAverage
from kws_dist.training.buffers import NormStatistics
from kws_dist.training.checkpoint import Checkpoint
from kws_dist.training.optim import AnyOptimizer, build_optimizer
from kws_dist.training.rebuild import stored_statistics
from kws_dist.training.synced_norm import synced
from kws_dist.training.transfer import Transfer, freeze, take_over

_WEIGHTS = 3001  # what a key is for; see `frontend.augment.Purpose`


@dataclass
class Learner:
    """A model in training."""

    model: nn.Module
    optimizer: AnyOptimizer
    average: MovingAverage | None
    norm_statistics: NormStatistics
    statistics: Statistics | None = None
    """Of the training features, where these are normalised by them."""
    frozen: tuple[str, ...] = ()
    """Names of the parameters that are not trained."""

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

    def begin_with(self, source: Checkpoint, words: Sequence[str], features: FeaturesConfig) -> Transfer:
        """Take over the weights of another run where they fit, and what its features were normalised by.

        Raises `UsageError` if hardly anything fits, or what does not is frozen.
        """
        transfer = take_over(self.model, words, source)
        transfer.check_frozen(self.frozen)
        if self.average:
            self.average.module.load_state_dict(self.model.state_dict())
        stored = stored_statistics(source.state)
        theirs = load_text(source.state["config"], name=str(source.path)).features
        same = replace(theirs, preset="") == replace(features, preset="")
        self.statistics = stored if same and features.normalize == "dataset" else None
        return transfer

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Take over the tensors and the state of a checkpoint."""
        self.statistics = stored_statistics(state)
        self.model.load_state_dict(tensors["weights"])
        _load_optimizer_tensors(self.optimizer, tensors["optimizer"])
        if self.average:
            self.average.module.load_state_dict(tensors["average"])


def build_learner(config: Config, *, num_classes: int, sample_rate_hz: int, device: torch.device) -> Learner:
    """Build a model with weights drawn from the seed, on the device, with its optimizer."""
    torch.manual_seed(keyed.fold(config.seed, _WEIGHTS) & (2**63 - 1))
    model = model_of(config, num_classes, sample_rate_hz).to(device)
    if config.train.sync_batchnorm:
        model = synced(model, device)
    norm_statistics = NormStatistics(model)
    frozen = freeze(model, config.train)
    optimizer = build_optimizer(model, config.train)
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    return Learner(model, optimizer, average, norm_statistics, frozen=frozen)


def _optimizer_tensors(optimizer: AnyOptimizer) -> dict[str, Tensor]:
    """Flatten the state to `{"<parameter number>.<name>": tensor}`; rates and the like come from the settings."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, slots in state.items() for name, tensor in slots.items()}


def _load_optimizer_tensors(optimizer: AnyOptimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    _check_memory(optimizer, state)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _check_memory(optimizer: AnyOptimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """Raise `DataError` for memory of other parameters, which optimizers would read beyond its end."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sizes = {number: {tensor.numel() for tensor in slots.values()} - {1} for number, slots in state.items()}
    for number, of_slots in sizes.items():
        if number >= len(parameters) or not of_slots <= {parameters[number].numel()}:
            raise DataError("the optimizer's memory in the checkpoint is of other parameters than are trained here")
