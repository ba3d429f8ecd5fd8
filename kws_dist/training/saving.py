"""What a checkpoint of a job holds."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kws_dist.config import to_yaml
from kws_dist.run import package_versions
from kws_dist.tracking import wandb_id
from kws_dist.training.buffers import average_buffers
from kws_dist.training.progress import Progress
from kws_dist.training.saver import Saver, Snapshot

if TYPE_CHECKING:
    from kws_dist.training.session import Job


def save(job: "Job", saver: Saver | None, progress: Progress, is_best: bool) -> None:
    """Save where there is a saver, on rank 0; every rank goes on with the same batch-norm statistics that are saved."""
    average_buffers(job.learner.model, job.accelerator)
    if job.learner.average:
        average_buffers(job.learner.average.module, job.accelerator)
    if saver:
        saver.save(Snapshot(progress.step, job.learner.tensors(), _state(job, progress), is_best))


def _state(job: "Job", progress: Progress) -> dict[str, Any]:
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
