"""Optimizers that know nothing of steps to skip, made to skip them, and several of them as one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Guarded:
    """One or more optimizers as one that takes no step where the device finds it bad, and waits for no device.

    A bad step is taken with gradients of zero, so that nothing that is not finite gets into the optimizer's memory;
    then weights and memory are put back. torch's fused optimizers need none of this: their kernels look at `found_inf`.
    """

    def __init__(self, *optimizers: Optimizer) -> None:
        self._optimizers = optimizers
        self.found_inf: Tensor | None = None
        """0 or 1 on the device: whether the coming step is bad; None: it is known to be good."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights, or none."""
        for optimizer in self._optimizers:
            _fetch_gradients(optimizer)
        if self.found_inf is None:
            self._step_all()
            return
        if not all(optimizer.state for optimizer in self._optimizers) and bool(self.found_inf):
            return  # memory is made of the first gradient: that step alone waits for the device, and leaves no trace
        bad = self.found_inf.bool()
        for gradient in (p.grad for group in self.param_groups for p in group["params"] if p.grad is not None):
            gradient.copy_(torch.where(bad, 0.0, gradient))
        before = [(tensor, tensor.clone()) for tensor in self._tensors()]
        self._step_all()
        for tensor, old in before:
            tensor.copy_(torch.where(bad.to(tensor.device), old, tensor))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, numbered through."""
        state, first = {}, 0
        for optimizer in self._optimizers:
            state |= {first + number: slots for number, slots in optimizer.state_dict()["state"].items()}
            first += _size(optimizer)
        return {"state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        first = 0
        for optimizer in self._optimizers:
            last = first + _size(optimizer)
            state = {number - first: slots for number, slots in state_dict["state"].items() if first <= number < last}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            first = last

    def _step_all(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()

    def _tensors(self) -> list[Tensor]:
        tensors: list[Tensor] = [parameter for group in self.param_groups for parameter in group["params"]]
        for optimizer in self._optimizers:
            for slots in optimizer.state.values():
                tensors += [slot for slot in slots.values() if isinstance(slot, Tensor)]
        return tensors


class KernelMuon(torch.optim.Muon):
    """torch's Muon, which takes matrices only, for kernels as well: `(out, in, ...)` as `(out, in * ...)`.

    Muon: Jordan et al., 2024; kernels as matrices: its author's airbench. The weights are shared, not copied.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        self.kernels = [kernel for group in groups for kernel in group["params"]]
        as_matrices = [
            {**group, "params": [nn.Parameter(kernel.detach().view(len(kernel), -1)) for kernel in group["params"]]}
            for group in groups
        ]
        super().__init__(as_matrices, **options)  # pyright: ignore[reportArgumentType]


def _fetch_gradients(optimizer: Optimizer) -> None:
    if isinstance(optimizer, KernelMuon):
        matrices = [matrix for group in optimizer.param_groups for matrix in group["params"]]
        for matrix, kernel in zip(matrices, optimizer.kernels, strict=True):
            matrix.data = kernel.detach().view_as(matrix)  # again: wrapping for several ranks gives a kernel new memory
            matrix.grad = None if kernel.grad is None else kernel.grad.view_as(matrix)


def _size(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
