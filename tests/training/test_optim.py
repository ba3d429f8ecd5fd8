"""Every optimizer takes the step that its library takes, in the groups that the settings ask for."""

from typing import Any

import pytest
import torch
from pytorch_optimizer import NovoGrad
from torch import nn

from kws_dist import models
from kws_dist.config import TrainConfig
from kws_dist.training.guarded import Guarded, KernelMuon
from kws_dist.training.optim import build_optimizer, parameter_groups


class Small(nn.Module):
    """A kernel, a depthwise kernel, a norm, a matrix and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 5)
        self.blocks = nn.ModuleList([nn.Conv1d(8, 16, 3), nn.Conv1d(16, 16, 9, padding=4, groups=16)])
        self.norm = nn.BatchNorm1d(16)
        self.mix = nn.Linear(16, 12)
        self.classifier = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.mix(self.norm(x).mean(2)))


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def take_steps(model: nn.Module, optimizer: Any, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(6, 3, 20, generator=generator)).square().sum().backward()
        optimizer.step()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, one), other in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("guard", [None, 0.0])
def test_novograd_is_that_of_its_library(guard: float | None) -> None:
    ours, theirs = small(), small()
    optimizer = build_optimizer(ours, TrainConfig(optimizer="novograd", momentum=0.95, beta2=0.5, weight_decay=1e-3))
    assert isinstance(optimizer, Guarded)
    optimizer.found_inf = None if guard is None else torch.tensor(guard)
    take_steps(ours, optimizer)
    take_steps(theirs, NovoGrad(theirs.parameters(), lr=0.0, betas=(0.95, 0.5), weight_decay=1e-3))
    assert_same(ours, theirs)


def test_muon_takes_kernels_and_matrices_inside_and_adamw_the_rest() -> None:
    model = small()
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", momentum=0.95))
    muon, adamw = optimizer._optimizers  # type: ignore[attr-defined]
    assert isinstance(muon, KernelMuon)
    assert {id(kernel) for kernel in muon.kernels} == {id(model.blocks[0].weight), id(model.mix.weight)}
    assert isinstance(adamw, torch.optim.AdamW)
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(list(model.parameters())) - 2


@pytest.mark.parametrize("name", ["bcresnet", "ds_cnn", "matchboxnet"])
def test_muon_takes_no_kernel_whose_rows_work_on_different_channels(name: str) -> None:
    muon, _ = build_optimizer(models.build(name, 12), TrainConfig(optimizer="muon"))._optimizers  # type: ignore[attr-defined]
    shapes = [tuple(kernel.shape) for kernel in muon.kernels]
    assert shapes
    assert all(len(shape) == 2 or set(shape[2:]) == {1} for shape in shapes), f"{name}: only 1x1 kernels mix channels"


def test_muon_moves_a_kernel_as_torch_moves_its_matrix() -> None:
    model, before = small(), small()
    take_steps(model, build_optimizer(model, TrainConfig(optimizer="muon", weight_decay=0.1)), steps=1)
    kernel = before.blocks[0].weight
    matrix = nn.Parameter(kernel.detach().view(16, -1).clone())
    assert isinstance(model.blocks[0].weight.grad, torch.Tensor)
    matrix.grad = model.blocks[0].weight.grad.view(16, -1)
    torch.optim.Muon(
        [matrix], lr=0.01, weight_decay=0.1, momentum=0.9, nesterov=False, adjust_lr_fn="match_rms_adamw"
    ).step()
    torch.testing.assert_close(model.blocks[0].weight.flatten(1), matrix)
    assert not torch.equal(model.blocks[0].weight, kernel)


@pytest.mark.parametrize("name", ["muon", "novograd", "adamw", "sgd"])
def test_an_optimizer_goes_on_from_its_state(name: Any) -> None:
    train = TrainConfig(optimizer=name)
    straight, cut = small(), small()
    optimizer = build_optimizer(straight, train)
    take_steps(straight, optimizer, steps=4)
    first = build_optimizer(cut, train)
    take_steps(cut, first, steps=3)
    again = build_optimizer(cut, train)
    again.load_state_dict({**again.state_dict(), "state": first.state_dict()["state"]})
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        torch.randn(6, 3, 20, generator=generator)
    for group in again.param_groups:
        group["lr"] = 0.01
    cut.zero_grad()
    cut(torch.randn(6, 3, 20, generator=generator)).square().sum().backward()
    again.step()
    assert_same(straight, cut)


def test_a_layer_s_rate_falls_with_its_distance_from_the_output() -> None:
    model = small()
    groups = parameter_groups(model, TrainConfig(layer_decay=0.5))
    scales = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    assert scales[id(model.classifier.weight)] == 1.0
    assert scales[id(model.mix.weight)] == 0.5
    assert scales[id(model.blocks[1].weight)] == scales[id(model.norm.weight)] == 0.25
    assert scales[id(model.blocks[0].weight)] == 0.125
    assert scales[id(model.first.bias)] == 0.0625


def test_all_parameters_are_in_one_group_by_default() -> None:
    groups = parameter_groups(small(), TrainConfig())
    assert len(groups) == 1
    assert "weight_decay" not in groups[0]


def test_norms_biases_and_what_a_model_exempts_can_be_left_undecayed() -> None:
    model = models.build("kwt", num_classes=4)
    groups = parameter_groups(model, TrainConfig(decay_norms=False))
    undecayed = {id(p) for group in groups if group.get("weight_decay") == 0.0 for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in undecayed}
    vectors = {name for name, parameter in model.named_parameters() if parameter.dim() <= 1}
    assert names == vectors | model.no_weight_decay
    assert model.no_weight_decay


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon", "novograd"])
def test_frozen_parameters_are_left_out(name: Any) -> None:
    model, before = small(), small()
    for frozen in (model.first.weight, model.blocks[0].weight):
        frozen.requires_grad_(False)
    take_steps(model, build_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.1)))
    assert torch.equal(model.first.weight, before.first.weight)
    assert torch.equal(model.blocks[0].weight, before.blocks[0].weight)
    assert not torch.equal(model.mix.weight, before.mix.weight)
