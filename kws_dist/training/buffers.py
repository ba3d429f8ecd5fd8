"""Batch-norm statistics: kept through a step that is skipped, and made the same on all ranks.

Each rank gathers its own over its own clips; whenever the model is evaluated or saved they are replaced by their mean
over the ranks, and every rank goes on from there. So what rank 0 saves is what all evaluated.
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class NormStatistics:
    """The running statistics of a model's batch norms, in one piece of memory, so that a step costs two copies."""

    def __init__(self, model: nn.Module) -> None:
        """Give the statistics of `model` new memory; what refers to them must be made after this."""
        found = [
            (module, name, buffer)
            for module in model.modules()
            if isinstance(module, _NormBase)
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.is_floating_point()
        ]
        nothing = torch.zeros(0, device=next(model.parameters()).device)
        self._all = torch.cat([nothing, *(buffer.flatten() for _, _, buffer in found)])
        self._kept = self._all.clone()
        parts = self._all.split([buffer.numel() for _, _, buffer in found])
        for (module, name, buffer), part in zip(found, parts, strict=False):  # splitting nothing gives one nothing
            setattr(module, name, part.view_as(buffer))

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are before a step."""
        self._kept.copy_(self._all)

    @torch.no_grad()
    def restore(self, bad: Tensor) -> None:
        """Put them back where `bad`, a bool on the device, says so; nobody waits for it."""
        torch.where(bad, self._kept, self._all, out=self._all)


@torch.no_grad()
def gathered_buffers(model: nn.Module, accelerator: Accelerator) -> Tensor:
    """Return every rank's own floating-point buffers `(world, n)`, of which there are some; all ranks call it."""
    rows = accelerator.gather(torch.cat([buffer.flatten().float() for buffer in _floats(model)])[None])
    assert isinstance(rows, Tensor)
    return rows


@torch.no_grad()
def take_buffers(model: nn.Module, own: Tensor) -> None:
    """Give a model the buffers of one rank `(n,)`, as `gathered_buffers` returned them."""
    buffers = _floats(model)
    for buffer, part in zip(buffers, own.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def has_buffers(model: nn.Module) -> bool:
    """Whether a model has any floating-point buffers."""
    return bool(_floats(model))


def _floats(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


@torch.no_grad()
def average_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace every floating-point buffer by its mean over the ranks, in one all-reduce.

    Running statistics are linear in what the ranks saw, so averaging whenever the model is evaluated or saved gives
    the statistics of the global batch's micro-batches, and costs nothing in between.
    """
    if accelerator.num_processes == 1:
        return
    buffers = _floats(model)
    if not buffers:
        return
    mean = accelerator.reduce(torch.cat([buffer.flatten().float() for buffer in buffers]), "mean")
    assert isinstance(mean, Tensor)
    for buffer, part in zip(buffers, mean.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
