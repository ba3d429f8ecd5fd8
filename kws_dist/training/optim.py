"""Optimizers, each of which can skip a step that the device finds bad without asking the host (`found_inf`)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kws_dist.config import TrainConfig
from kws_dist.errors import UsageError
from kws_dist.models.layers import layers
from kws_dist.training.guarded import Guarded, KernelMuon

Groups = list[dict[str, Any]]

_LEAST_MATRIX = 8
"""Muon's update has no meaning for matrices with fewer rows or columns."""


class AnyOptimizer(Protocol):
    """What the trainer needs: torch's optimizers have it, and so does `Guarded`."""

    @property
    def param_groups(self) -> Groups:
        """The groups, each with its `lr` and `scale`."""
        ...

    def step(self) -> Any:
        """Update the weights, unless the tensor `found_inf` says that this step is bad."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, `{"state": {parameter number: {name: tensor}}, ...}`."""
        ...

    def load_state_dict(self, state_dict: Any) -> None:
        """Take over such a state."""


def build_optimizer(model: nn.Module, train: TrainConfig) -> AnyOptimizer:
    """Build the optimizer of the parameters that are trained, in groups with a `scale` of the rate each."""
    groups = parameter_groups(model, train)
    if train.optimizer == "sgd":
        return _sgd(groups, train)
    if train.optimizer == "muon":
        return _muon(model, groups, train)
    betas = (train.momentum, train.beta2)
    if train.optimizer == "novograd":
        from pytorch_optimizer.optimizer.novograd import NovoGrad  # here, because it imports a hundred optimizers

        return Guarded(NovoGrad(groups, lr=0.0, betas=betas, weight_decay=train.weight_decay))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    return kind(groups, lr=0.0, betas=betas, weight_decay=train.weight_decay, fused=True)


def parameter_groups(model: nn.Module, train: TrainConfig) -> Groups:
    """Return the trained parameters by their scale of the rate and by whether they decay; most models have one group.

    `layer_decay`: layer-wise rates as in ULMFiT (arXiv 1801.06146, section 3.2) and BEiT. A model may exempt
    parameters from decay by its attribute `no_weight_decay`, a set of names, where `decay_norms` is off.
    """
    exempt = getattr(model, "no_weight_decay", frozenset())
    by_name = dict(model.named_parameters())
    of_layers = layers(model)
    groups: dict[tuple[float, bool], list[Tensor]] = defaultdict(list)
    for number, names in enumerate(of_layers):
        scale = train.layer_decay ** (len(of_layers) - 1 - number)
        for name in names:
            parameter = by_name[name]
            if parameter.requires_grad:
                decays = train.decay_norms or (parameter.dim() > 1 and name not in exempt)
                groups[scale, decays].append(parameter)
    return [
        {"params": parameters, "scale": scale, **({} if decays else {"weight_decay": 0.0})}
        for (scale, decays), parameters in groups.items()
    ]


def _sgd(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    options = {"momentum": train.momentum, "nesterov": train.nesterov, "weight_decay": train.weight_decay}
    optimizer = torch.optim.SGD(groups, lr=0.0, fused=True, **options)
    if train.momentum:
        # A zero buffer gives the same first step as none, and survives a first step that is skipped.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _muon(model: nn.Module, groups: Groups, train: TrainConfig) -> Guarded:
    """Build Muon for the matrices and kernels inside the model, AdamW for the rest; both make steps of one size."""
    left_out = _first_and_last(model) | _kernels_of_single_channels(model)
    inner = partial(_split, keep=lambda parameter: parameter not in left_out and _is_matrix(parameter))
    options = {"weight_decay": train.weight_decay, "momentum": train.momentum, "nesterov": train.nesterov}
    betas = (train.momentum, train.beta2)
    # Fused: its counters of steps lie on the device, where the guard puts them back without a wait.
    adamw = partial(torch.optim.AdamW, lr=0.0, betas=betas, weight_decay=train.weight_decay, fused=True)
    matrices, rest = inner(groups, wanted=True), inner(groups, wanted=False)
    if not matrices:
        raise UsageError(
            "--train.optimizer muon finds no matrix between the first and the last layer of this model: take adamw"
        )
    muon = KernelMuon(matrices, lr=0.0, adjust_lr_fn="match_rms_adamw", **options)
    return Guarded(muon, *([adamw(rest)] if rest else []))


def _first_and_last(model: nn.Module) -> set[Tensor]:
    """Return the parameters that meet the features and the words; Muon's author leaves these to AdamW."""
    by_name: Mapping[str, Tensor] = dict(model.named_parameters())
    of_layers = layers(model)
    return {by_name[name] for name in (*of_layers[0], *of_layers[-1])}


def _kernels_of_single_channels(model: nn.Module) -> set[Tensor]:
    """Return depthwise and grouped kernels: rows that work on different channels are no matrix."""
    grouped = [module for module in model.modules() if getattr(module, "groups", 1) > 1]
    return {parameter for module in grouped for parameter in module.parameters(recurse=False)}


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() > 1 and min(parameter.shape[0], parameter[0].numel()) >= _LEAST_MATRIX


def _split(groups: Iterable[dict[str, Any]], *, keep: Any, wanted: bool) -> Groups:
    parts = [{**group, "params": [p for p in group["params"] if keep(p) == wanted]} for group in groups]
    return [part for part in parts if part["params"]]
