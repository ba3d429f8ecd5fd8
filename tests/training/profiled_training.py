"""Trains for some steps under the profiler; run as a script, on however many ranks it is launched.

Arguments: a folder of shards, and a folder for the trace.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from kws_dist import models
from kws_dist.config import TrainConfig
from kws_dist.data.sampler import BatchSlice, build_sampler
from kws_dist.data.store import ClipPolicy, open_store
from kws_dist.data.workers import DeviceWorker
from kws_dist.frontend.features import LogMel
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.shards.read import open_dataset
from kws_dist.training.optim import build_optimizer
from kws_dist.training.profile import Profiler
from kws_dist.training.step import TrainStep

BATCH = 12


def train(
    shards: Path,
    folder: Path,
    accelerator: Accelerator,
    *,
    profile: int,
    steps: int,
    ahead: int = 0,
    first_step: int = 0,
) -> list[str]:
    """Train for `steps` steps, profile `profile` of them, and return what the profiler said."""
    device, rank = accelerator.device, accelerator.process_index
    rows = open_dataset(shards).rows("train")
    store = open_store(rows, ClipPolicy(clip_samples=1600), residency="device", device=device)
    sampler = build_sampler(rows.label, seed=0, balance=1.0, global_batch=BATCH)
    cut = BatchSlice(global_batch=BATCH, rank=rank, world=accelerator.num_processes)
    worker = DeviceWorker(store, sampler, FrontEnd(LogMel()).to(device), cut, device, ahead=ahead)
    torch.manual_seed(0)
    model: nn.Module = models.build("gru", num_classes=3, hidden=64, layers=1).to(device)
    optimizer = build_optimizer(model, TrainConfig())
    step = TrainStep(accelerator.prepare_model(model), optimizer, accelerator, seed=0, clip_norm=1.0)
    said: list[str] = []
    batches = worker.batches(first_step, first_step + steps)
    with Profiler(profile if rank == 0 else 0, folder, said.append, first_step=first_step) as profiler:
        for number in range(first_step, first_step + steps):
            step(batches, step=number, real_rows=BATCH, rate=0.1)
            profiler.step()
    batches.close()
    return said


def main() -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator()
    train(Path(sys.argv[1]), Path(sys.argv[2]), accelerator, profile=6, steps=15)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
    os._exit(0)  # a thread of torch's may outlive a profile, and then the end of Python aborts ("terminate called ...")


if __name__ == "__main__":
    main()
