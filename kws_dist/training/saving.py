"""What a checkpoint of a job holds, and when which one is written."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from kws_dist.config import to_yaml
from kws_dist.errors import DataError
from kws_dist.run import package_versions
from kws_dist.tracking import Tracker, wandb_id
from kws_dist.training import checkpoint
from kws_dist.training.buffers import average_buffers
from kws_dist.training.mirroring import mirror_checkpoint
from kws_dist.training.progress import Progress
from kws_dist.training.ranks import on_rank_0

if TYPE_CHECKING:
    from kws_dist.training.session import Job


def save(job: "Job", tracker: Tracker, progress: Progress, is_best: bool) -> None:
    """Save on rank 0; every rank goes on with the same batch-norm statistics that were saved."""
    average_buffers(job.learner.model, job.accelerator)
    if job.learner.average:
        average_buffers(job.learner.average.module, job.accelerator)
    on_rank_0(job.accelerator, partial(_write_checkpoint, job, tracker, progress, is_best))


def _write_checkpoint(job: "Job", tracker: Tracker, progress: Progress, is_best: bool) -> None:
    statistics, scaler = job.learner.statistics, job.accelerator.scaler
    state = {
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
    tensors, folder = job.learner.tensors(), job.run.checkpoints
    try:
        if is_best:  # first, so that no step checkpoint ever speaks of a best one that is not there yet
            checkpoint.save(folder / "best", tensors, state)
        checkpoint.save(folder / checkpoint.step_name(progress.step), tensors, state)
        checkpoint.prune(folder)
        mirror_checkpoint(job, folder / checkpoint.step_name(progress.step), is_best, tracker)
        job.run.set_state("running", progress.step)
    except OSError as error:
        raise DataError(
            f"{folder}: the checkpoint of step {progress.step} cannot be written ({error.strerror})"
        ) from None
