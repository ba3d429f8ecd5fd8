"""`--dry_run`: everything is built and tried once, nothing is written."""

import math
import time

import torch

from kws_dist import memory
from kws_dist.display import Display, duration
from kws_dist.training.job import Job
from kws_dist.training.loop import Parts

_STEPS = 2


def rehearse(job: Job, parts: Parts, display: Display) -> None:
    """Take two steps and evaluate one batch; show shapes, memory and how long the run would take."""
    with display:
        display.busy("trying two steps")
        step_s, loss = _try_steps(job, parts)
        display.busy("trying validation")
        evaluation_s, val_loss = _try_evaluation(job, parts)
        shapes = _shapes(job, parts)
    if not math.isfinite(loss):
        display.warn(f"the loss is {loss} after {_STEPS} steps: lower --train.learning_rate, or set --train.clip_norm")
    held, limit = memory.peak_bytes(job.accelerator.device), memory.limit_bytes(job.accelerator.device)
    total = f"about {duration(step_s * job.total_steps + evaluation_s)}, of which validation {duration(evaluation_s)}"
    rows = {
        **shapes,
        "loss": f"{loss:.4f} after {_STEPS} steps" + ("" if val_loss is None else f", {val_loss:.4f} in validation"),
        "peak memory": f"{held / 2**30:.2f}" + (f" of {limit / 2**30:.1f}" if limit else "") + " GiB",
        "a step takes": f"{1000 * step_s:.1f} ms, {job.config.train.global_batch / step_s:,.0f} clips/s",
        "the run would take": total,
        "written": "nothing",
    }
    display.finish(rows, [])


def _try_steps(job: Job, parts: Parts) -> tuple[float, float]:
    """Return the seconds that the last step took, the first being slower than all others, and its loss."""
    step_s = loss = 0.0
    batches = parts.batches(0, _STEPS)
    for step in range(_STEPS):
        started_s = time.perf_counter()
        parts.step(batches, step=step, real_rows=parts.sampler.real_rows(step), rate=job.config.train.learning_rate)
        loss = parts.step.read().loss  # waits for the device
        step_s = time.perf_counter() - started_s
    batches.close()
    return step_s, loss


def _try_evaluation(job: Job, parts: Parts) -> tuple[float, float | None]:
    """Return the seconds that all evaluations of the run would take, and the loss of one batch."""
    batch_s, loss = 0.0, None
    for _ in range(2):  # the first is slower than all others
        started_s = time.perf_counter()
        if parts.validate:
            loss = parts.validate(parts.evaluated_model(), steps=1).loss
        batch_s = time.perf_counter() - started_s
    validation_batches = parts.validate.steps if parts.validate else 0
    batches = validation_batches * (2 if parts.raw_model else 1) + (parts.test.steps if parts.test else 0)
    train = job.config.train
    every = train.eval_every_steps or train.eval_every_epochs * job.sampler.steps_per_epoch
    return batch_s * batches * math.ceil(job.total_steps / every), loss


@torch.inference_mode()
def _shapes(job: Job, parts: Parts) -> dict[str, str]:
    """Return the shapes that a micro-batch takes on its way."""
    row = parts.worker.batches(0, 1)
    batch = next(row)
    row.close()
    samples = round(job.config.data.clip_seconds * job.data.dataset.sample_rate_hz)
    with job.accelerator.autocast():
        logits = parts.evaluated_model().eval()(batch.features)
    shapes = {"waveform": (len(batch.features), samples), "features": batch.features.shape, "logits": logits.shape}
    return {name: " x ".join(map(str, shape)) for name, shape in shapes.items()}
