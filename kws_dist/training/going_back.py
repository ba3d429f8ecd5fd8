"""Taking up an earlier checkpoint in the middle of a run, when the numbers have gone wrong."""

from pathlib import Path

from kws_dist.errors import DataError
from kws_dist.tracking import Tracker
from kws_dist.training import checkpoint
from kws_dist.training.job import Job
from kws_dist.training.progress import Progress
from kws_dist.training.ranks import on_rank_0
from kws_dist.training.saver import Saver
from kws_dist.training.saving import save, take_own_buffers


def take_up(job: Job, path: Path) -> Progress:
    """Load a checkpoint into the job, and return how far it was."""
    loaded = checkpoint.load(path)
    job.learner.load(loaded.tensors, loaded.state)
    take_own_buffers(job, loaded)
    scaler, stored = job.accelerator.scaler, loaded.state.get("scaler")
    if scaler and stored:
        scaler.load_state_dict(stored)
    return Progress(**loaded.state["progress"])


def go_back(job: Job, saver: Saver | None, tracker: Tracker, progress: Progress) -> None:
    """Put the job and `progress` back to the newest checkpoint, at a lower rate, and save that at once.

    So whoever resumes this run knows that it went back. All ranks must call it together.
    """
    path = on_rank_0(job.accelerator, lambda: str(_newest(job, saver)))
    vars(progress).update(vars(take_up(job, Path(path))))
    progress.rollbacks += 1
    progress.rate_factor *= job.config.train.rollback_factor
    tracker.rewind(progress.step)
    save(job, saver, progress, is_best=False, is_due=True)


def _newest(job: Job, saver: Saver | None) -> Path:
    if saver:
        saver.forget()
    found = checkpoint.newest(job.run.checkpoints, on_skip=lambda _: None)
    if found is None:
        raise DataError(f"{job.run.checkpoints} holds no checkpoint that is whole, to go back to")
    return found.path
