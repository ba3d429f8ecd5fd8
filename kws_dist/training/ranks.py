"""The processes of a job: how they are set up, and what rank 0 does for all."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object
from torch import Tensor

from kws_dist.data.share import Share
from kws_dist.errors import DataError, UsageError
from kws_dist.training.data import Ranks

T = TypeVar("T")


def make_accelerator(precision: str) -> Accelerator:
    """Set up the process group and the precision (`auto`, `fp32`, `bf16` or `fp16`).

    DDP does not broadcast batch-norm statistics at each step; `average_buffers` treats them when it matters.
    """
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    precision = _resolved(precision)
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision, kwargs_handlers=[ddp])


def _resolved(wanted: str) -> str:
    has_gpu = torch.cuda.is_available()
    if wanted == "auto":
        return "bf16" if has_gpu and torch.cuda.is_bf16_supported() else "fp32"
    if wanted == "fp16" and not has_gpu:
        raise UsageError("--train.precision fp16 needs a GPU: choose fp32 or bf16")
    return wanted


def ranks_for_data(accelerator: Accelerator) -> Ranks:
    """Return what opening data needs to know of the other ranks."""
    world = accelerator.num_processes

    def all_gather(tensor: Tensor) -> Tensor:
        gathered = accelerator.gather(tensor[None])
        assert isinstance(gathered, Tensor)
        return gathered

    if world == 1:
        return Ranks()
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE") or world)
    share = Share(accelerator.process_index, world, all_gather)
    return Ranks(share, per_machine, lambda own: gather_object([own]))


def on_rank_0(accelerator: Accelerator, do: Callable[[], T]) -> T:
    """Call `do` on rank 0 and return what it returned on every rank; its error is raised on every rank.

    So no rank waits for another that has given up. The result must be small and picklable.
    """
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = do()
        except (UsageError, DataError) as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return outcome[0]  # pyright: ignore[reportReturnType]
