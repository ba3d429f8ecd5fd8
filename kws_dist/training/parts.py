"""The parts of one job that are built once it is known where it goes on."""

import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch

from kws_dist.data.workers import DeviceWorker
from kws_dist.display import Display
from kws_dist.evaluation.evaluate import Evaluator
from kws_dist.tracking import Tracker
from kws_dist.training.buffers import average_buffers
from kws_dist.training.draws import class_weights
from kws_dist.training.front_end import evaluation_front_end, training_front_end
from kws_dist.training.loop import Parts
from kws_dist.training.losses import LabelLoss
from kws_dist.training.saving import save
from kws_dist.training.step import TrainStep
from kws_dist.training.stop import StopRequest

if TYPE_CHECKING:
    from kws_dist.training.session import Job


def parts_of(job: "Job", stop: StopRequest, tracker: Tracker, display: Display) -> Parts:
    """Build what the loop works with; the model is wrapped for several ranks here."""
    config, learner = job.config, job.learner
    front_end = training_front_end(config, job.data, learner.statistics, job.teacher)
    store = job.data.stores["train"]
    device = job.accelerator.device
    return Parts(
        step=_train_step(job),
        worker=DeviceWorker(store, job.sampler, front_end.to(device), job.batch_slice, device),
        sampler=job.sampler,
        store=store,
        validate=evaluator(job, "val"),
        test=evaluator(job, "test") if config.train.test_each_epoch else None,
        evaluated_model=partial(_evaluated_model, job),
        save=partial(save, job),
        stop_asked=lambda: stop.asked,
        tracker=tracker,
        display=display,
    )


def _train_step(job: "Job") -> TrainStep:
    train, device = job.config.train, job.accelerator.device
    if train.compile:
        job.learner.model.compile()
    with warnings.catch_warnings():
        # torch renames this option; accelerate has only the old name, and older torch knows no other.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        prepared = job.accelerator.prepare_model(job.learner.model)
    weights = class_weights(job.config, job.data.stores["train"].rows, job.data.dataset.words)
    return TrainStep(
        prepared,
        job.learner.optimizer,
        job.accelerator,
        seed=job.config.seed,
        loss=LabelLoss(
            label_smoothing=train.label_smoothing,
            focal_gamma=train.focal_gamma if train.loss == "focal" else 0.0,
            class_weights=None if weights is None else weights.to(device),
        ),
        accumulate=train.accumulate,
        clip_norm=train.clip_norm,
        average=job.learner.average,
        teacher=job.teacher.teacher.to(device) if job.teacher else None,
    )


def evaluator(job: "Job", split: str) -> Evaluator | None:
    """Return an evaluator of a split, or None if the data have no such split."""
    if split not in job.data.stores:
        return None
    rate_hz = job.data.dataset.sample_rate_hz
    front_end = evaluation_front_end(job.config.features, rate_hz, job.learner.statistics)
    return Evaluator(
        job.data.stores[split],
        front_end.to(job.accelerator.device),
        job.accelerator,
        num_classes=len(job.data.dataset.words),
    )


def _evaluated_model(job: "Job") -> torch.nn.Module:
    average_buffers(job.learner.evaluated, job.accelerator)
    return job.learner.evaluated
