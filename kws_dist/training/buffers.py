"""Batch-norm statistics on several ranks: each rank gathers its own, and the mean counts."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn


@torch.no_grad()
def average_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace every floating-point buffer by its mean over the ranks, in one all-reduce.

    Running statistics are linear in what the ranks saw, so averaging whenever the model is evaluated or saved gives
    the statistics of the global batch's micro-batches, and costs nothing in between.
    """
    if accelerator.num_processes == 1:
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    mean = accelerator.reduce(torch.cat([buffer.flatten().float() for buffer in buffers]), "mean")
    assert isinstance(mean, Tensor)
    for buffer, part in zip(buffers, mean.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
