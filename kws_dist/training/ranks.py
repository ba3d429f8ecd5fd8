"""The processes of a job: how they are set up, and what rank 0 does for all."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from kws_dist.config import TrainConfig
from kws_dist.data.share import Share
from kws_dist.errors import DataError, UsageError
from kws_dist.process import has_fast_bf16
from kws_dist.training.data import Ranks

T = TypeVar("T")


def make_accelerator(train: TrainConfig) -> Accelerator:
    """Set up the process group, the precision, and how gradients are summed over the processes.

    DDP does not broadcast batch-norm statistics at each step; `average_buffers` treats them when it matters.
    """
    if train.compress_gradients and not torch.cuda.is_available():
        raise UsageError("--train.compress_gradients needs GPUs, whose NCCL sums bf16: leave it out")
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=train.bucket_mb,  # pyright: ignore[reportArgumentType]  (DDP takes fractions)
        static_graph=train.accumulate == 1,  # between no_sync and a summing step the graph of hooks differs
        comm_hook=DDPCommunicationHookType.BF16 if train.compress_gradients else DDPCommunicationHookType.NO,
    )
    _meet_anew()
    precision = _resolved(train.precision)
    _set_tf32(train.tf32 and precision == "fp32")  # others gain nothing, and features would have to avoid it
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision, kwargs_handlers=[ddp])


def _meet_anew() -> None:
    """Form the process group after a restart by torchrun, which keeps its store, and in it the addresses of processes
    that are gone; the new ones would wait for those for ever (pytorch/pytorch#135712).

    Only where all processes are on one machine: of several, each counts the restarts for itself.
    """
    env, restarts = os.environ, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    if env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"]:
        kept = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), wait_for_workers=False)
        store = PrefixStore(f"restart/{restarts}", kept)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=int(env["RANK"]), world_size=int(env["WORLD_SIZE"]))


def for_this_machine(train: TrainConfig) -> TrainConfig:
    """Return settings to use a trained model with: fp16 needs a GPU, and fp32 gives the same answers without one."""
    needs_gpu = train.precision == "fp16" and not torch.cuda.is_available()
    return replace(train, precision="fp32") if needs_gpu else train


def precision_of(accelerator: Accelerator) -> str:
    """Return the arithmetic of models as `--train.precision` calls it."""
    return "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def _resolved(wanted: str) -> str:
    has_gpu = torch.cuda.is_available()
    if wanted == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if has_gpu else has_fast_bf16()
        return "bf16" if has_bf16 else "fp32"
    if wanted == "fp16" and not has_gpu:
        raise UsageError("--train.precision fp16 needs a GPU: choose fp32 or bf16")
    return wanted


def _set_tf32(wanted: bool) -> None:
    """Let float32 products round to TF32, or not; the front end does not let its own (`frontend.precise`)."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted


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


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Return whether the flag is set on any rank; all ranks must call it together."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum")
    return bool(total)


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
