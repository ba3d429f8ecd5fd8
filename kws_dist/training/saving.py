"""What a checkpoint of a job holds."""

from dataclasses import asdict
from typing import Any

from torch import nn

from kws_dist.config import to_yaml
from kws_dist.run import package_versions
from kws_dist.tracking import wandb_id
from kws_dist.training.buffers import average_buffers, gathered_buffers, has_buffers, take_buffers
from kws_dist.training.checkpoint import Checkpoint
from kws_dist.training.job import Job
from kws_dist.training.progress import Progress
from kws_dist.training.saver import Saver, Snapshot

OWN_BUFFERS = "own_buffers"
"""Part of a checkpoint: the batch-norm statistics of each rank, by model."""


def save(job: Job, saver: Saver | None, progress: Progress, is_best: bool, is_due: bool) -> None:
    """Save where there is a saver, on rank 0; every rank goes on with the same batch-norm statistics that are saved.

    A save that is not due, because of a stop, also keeps each rank's own, which an undisturbed run would go on with.
    """
    own, world = {}, job.accelerator.num_processes
    models = _models(job)
    if world > 1 and not is_due:
        own = {name: gathered_buffers(model, job.accelerator) for name, model in models.items() if has_buffers(model)}
    for model in models.values():
        average_buffers(model, job.accelerator)
    if saver:
        tensors = job.learner.tensors() | ({OWN_BUFFERS: own} if own else {})
        saver.save(Snapshot(progress.step, tensors, _state(job, progress), is_best))


def take_own_buffers(job: Job, loaded: Checkpoint) -> None:
    """Go on with this rank's own statistics, where a checkpoint has them and as many ranks as there are now."""
    for name, rows in loaded.tensors.get(OWN_BUFFERS, {}).items():
        if len(rows) == job.accelerator.num_processes:
            take_buffers(_models(job)[name], rows[job.accelerator.process_index])


def _models(job: Job) -> dict[str, nn.Module]:
    average = job.learner.average
    return {"model": job.learner.model, **({"average": average.module} if average else {})}


def _state(job: Job, progress: Progress) -> dict[str, Any]:
    statistics, scaler = job.learner.statistics, job.accelerator.scaler
    return {
        "step": progress.step,
        "draw": progress.step * job.config.train.global_batch,
        "progress": asdict(progress),
        **job.facts,
        "sample_rate_hz": job.data.dataset.sample_rate_hz,
        "feature_statistics": statistics.to_json() if statistics else None,
        "scaler": scaler.state_dict() if scaler else None,
        "config": to_yaml(job.config),
        "wandb_id": wandb_id(job.run.path) if job.config.tracking.wandb != "disabled" else None,
        "versions": package_versions(),
        "world": job.accelerator.num_processes,
        "rng": "none to keep: every random number is keyed by (seed, draw) or (seed, step, rank)",
    }
