"""`--dry_run`: everything is built and tried once, nothing is written."""

import math
import resource
import time
from typing import TYPE_CHECKING

import torch

from kws_dist.display import Display, duration

if TYPE_CHECKING:
    from kws_dist.training.loop import Parts
    from kws_dist.training.session import Job

_STEPS = 2


def rehearse(job: "Job", parts: "Parts", display: Display) -> None:
    """Take two steps and evaluate one batch; show shapes, memory and how long the run would take."""
    device = job.accelerator.device
    step_s = loss = 0.0
    batches = parts.worker.batches(0, _STEPS)
    for step in range(_STEPS):
        started_s = time.perf_counter()
        parts.step(batches, step=step, real_rows=parts.sampler.real_rows(step), rate=job.config.train.learning_rate)
        loss = parts.step.read(stop=False).loss  # waits for the device
        step_s = time.perf_counter() - started_s
    batches.close()
    if not math.isfinite(loss):
        display.warn(f"the loss is {loss} after {_STEPS} steps: lower --train.learning_rate, or set --train.clip_norm")
    batch = next(parts.worker.batches(0, 1))
    rows = {
        "features": f"{tuple(batch.features.shape)} per micro-batch",
        "loss": f"{loss:.4f} after {_STEPS} steps",
    }
    if parts.validate:
        rows["validation"] = f"loss {parts.validate(parts.evaluated_model(), steps=1).loss:.4f} on one batch"
    rows["peak memory"] = f"{_peak_bytes(device) / 2**30:.2f} GiB on {device.type}"
    rows["training would take"] = f"about {duration(step_s * job.total_steps)}, without validation"
    display.finish(rows, [])


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
