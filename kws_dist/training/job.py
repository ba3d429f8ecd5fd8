"""What a job of a run is made of, and how it is built from the settings: the same on every rank, and before anything is
read from or written to the run folder."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from accelerate import Accelerator

from kws_dist.config import Config, run_dir_of
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.lanes import LaneSampler
from kws_dist.data.plans import lane_planner
from kws_dist.data.sampler import Sampler
from kws_dist.data.stream_store import StreamStore
from kws_dist.errors import UsageError
from kws_dist.evaluation.evaluate import Evaluation
from kws_dist.frontend import augment_settings, feature_settings
from kws_dist.run import RunFolder
from kws_dist.tracking import check_tracking
from kws_dist.training.check import check
from kws_dist.training.data import Data, open_data
from kws_dist.training.draws import training_sampler
from kws_dist.training.learner import Learner, build_learner
from kws_dist.training.progress import LAST
from kws_dist.training.ranks import ranks_for_data
from kws_dist.training.teaching import Lesson, open_teacher
from kws_dist.training.timetable import run_length


@dataclass(frozen=True)
class Job:
    """What is built once from the settings, before anything is read from or written to the run folder."""

    config: Config
    accelerator: Accelerator
    data: Data
    sampler: Sampler
    batch_slice: BatchSlice
    learner: Learner
    teacher: Lesson | None
    run: RunFolder

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return run_length(self.config.train, self.sampler.steps_per_epoch)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says besides its tensors and progress, all of which a resumed job must agree with."""
        return {
            "seed": self.config.seed,
            "dataset_digest": self.data.dataset.digest,
            "words": list(self.data.dataset.words),
            "teacher": self.teacher.digest if self.teacher else "none",
            "sampler": {
                **self.sampler.settings(),
                "skipped_clips": self.data.stores["train"].skipped_keys + self.data.skipped_noise,
            },
        }


def build_job(config: Config, accelerator: Accelerator) -> Job:
    """Open the data and build the model, the same on every rank."""
    check(config.train)
    check_tracking(config.tracking)
    batch_slice = BatchSlice(
        global_batch=config.train.global_batch,
        accumulate=config.train.accumulate,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    augment_settings.check(config.augment)
    ranks = ranks_for_data(accelerator)
    splits = ("train", "val", "test")
    data = open_data(config.data, accelerator.device, splits, ranks=ranks, warn=accelerator.print)
    if "train" not in data.stores:
        raise UsageError(f"--data.shards {config.data.shards} has no training split; it has {data.dataset.splits}")
    _check_validation(config, data)
    feature_settings.check(config.features, data.dataset.sample_rate_hz)
    store = data.stores["train"]
    sampler = training_sampler(config, store.rows, data.dataset.words, streams=data.streams)
    if isinstance(store, StreamStore) and isinstance(sampler, LaneSampler):
        ranks.agreed(lambda: store.keep(sampler.reservoir_clips()))
        store.plan = lane_planner(sampler, store.rows, batch_slice)
    words, rate_hz = data.dataset.words, data.dataset.sample_rate_hz
    learner = build_learner(config, num_classes=len(words), sample_rate_hz=rate_hz, device=accelerator.device)
    teacher = open_teacher(config, words, rate_hz) if config.train.teacher else None
    return Job(config, accelerator, data, sampler, batch_slice, learner, teacher, RunFolder(run_dir_of(config)))


def _check_validation(config: Config, data: Data) -> None:
    """Refuse what needs a validation split that is not there, or a figure that it does not give."""
    train, words = config.train, data.dataset.words
    if train.patience_epochs and "val" not in data.stores:
        raise UsageError(
            f"--train.patience_epochs {train.patience_epochs} ends the training by its validation, and"
            f" --data.shards {config.data.shards} has no validation split: make shards with one, or pass 0"
        )
    if "val" in data.stores:
        clips = np.bincount(data.stores["val"].rows.label, minlength=len(words))
        known = [LAST, *Evaluation(np.diag(clips), loss=0.0).figures(words)]
        if train.best_by not in known:
            near = get_close_matches(train.best_by, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose of {', '.join(known)}"
            raise UsageError(f"--train.best_by {train.best_by}: validation gives no such figure; {hint}")
