"""A training in this process, part by part, for tests that look inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from launching import SMALL

from kws_dist.config import parse
from kws_dist.display import silent
from kws_dist.tracking import Tracker
from kws_dist.training.job import Job, build_job
from kws_dist.training.loop import Parts
from kws_dist.training.parts import parts_of
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.session import statistics_of
from kws_dist.training.stop import StopRequest


@contextmanager
def a_job(shards: Path, *settings: str | Path) -> Iterator[tuple[Job, Parts]]:
    """Build the job of a small model and the parts of its loop; nothing of a job before is left."""
    AcceleratorState._reset_state(reset_partial_state=True)
    config = parse([str(word) for word in ("--data.shards", shards, *SMALL, *settings)])
    job = build_job(config, make_accelerator(config.train))
    job.learner.statistics = statistics_of(job)
    try:
        yield job, parts_of(job, StopRequest(), Tracker([]), silent())
    finally:
        job.data.close()
        AcceleratorState._reset_state(reset_partial_state=True)


def take_steps(job: Job, parts: Parts, count: int, *, rate: float = 0.05) -> dict[str, torch.Tensor]:
    """Take the first steps of a job; returns copies of its weights and statistics."""
    batches = parts.batches(0, count)
    for step in range(count):
        parts.step(batches, step=step, real_rows=parts.sampler.real_rows(step), rate=rate)
    batches.close()
    return {name: tensor.clone() for name, tensor in job.learner.model.state_dict().items()}
