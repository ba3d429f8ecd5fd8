"""The parts of one job that are built once it is known where it goes on."""

import warnings
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import torch

from kws_dist.data.workers import DeviceWorker
from kws_dist.display import Display
from kws_dist.draw_log import DrawLog, next_job
from kws_dist.evaluation.evaluate import Evaluator
from kws_dist.tracking import Tracker
from kws_dist.training.buffers import average_buffers
from kws_dist.training.draws import class_weights
from kws_dist.training.front_end import evaluation_front_end, training_front_end
from kws_dist.training.going_back import go_back
from kws_dist.training.graphed import GraphedStep, check_graphed
from kws_dist.training.job import Job
from kws_dist.training.loop import Parts
from kws_dist.training.losses import LabelLoss
from kws_dist.training.ranks import any_rank, on_rank_0
from kws_dist.training.saver import Saver
from kws_dist.training.saving import save
from kws_dist.training.step import TrainStep
from kws_dist.training.stop import StopRequest

_Batches = Callable[[int, int], Generator[Any, None, None]]


def parts_of(
    job: Job,
    stop: StopRequest,
    tracker: Tracker,
    display: Display,
    *,
    saver: Saver | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> Parts:
    """Build what the loop works with; the model is wrapped for several ranks here. Without a saver nothing is saved."""
    config, learner, device = job.config, job.learner, job.accelerator.device
    front_end = training_front_end(config, job.data, learner.statistics, job.teacher).to(device)
    if config.train.compile:
        front_end.features.compile()  # augmentation stays as it is: compiled, it would round otherwise
    store = job.data.stores["train"]
    worker = DeviceWorker(store, job.sampler, front_end, job.batch_slice, device)
    graphed = config.train.cuda_graph
    if graphed:
        check_graphed(config.train, device, store)
    step = _train_step(job, wrapped=not graphed)
    return Parts(
        step=GraphedStep(step, worker, learner, world=job.accelerator.num_processes) if graphed else step,
        batches=_logged(job, worker.drawn if graphed else worker.batches),
        worker=worker,
        sampler=job.sampler,
        words=job.data.dataset.words,
        device=device,
        alone=job.accelerator.num_processes == 1,
        validate=evaluator_of(job, "val", stop) if "val" in job.data.stores else None,
        test=evaluator_of(job, "test", stop) if config.train.test_each_epoch and "test" in job.data.stores else None,
        evaluated_model=partial(_agreed, job, learner.evaluated),
        raw_model=partial(_agreed, job, learner.model) if learner.average else None,
        own_model=lambda: learner.evaluated,
        save=partial(save, job, saver),
        go_back=partial(go_back, job, saver, tracker),
        first_keys=partial(_first_keys, job, worker),
        stop_asked=lambda: stop.asked,
        stops=partial(_stops, job, stop),
        after_step=after_step,
        tracker=tracker,
        display=display,
    )


def _logged(job: Job, batches: _Batches) -> _Batches:
    """Return what yields the same batches, each once it is in the draw log, if there is to be one."""
    if not job.config.tracking.draws or job.config.dry_run:
        return batches
    number = on_rank_0(job.accelerator, partial(next_job, job.run.path))
    return DrawLog(job.run.path, number, job.batch_slice).watched(batches)


def _train_step(job: Job, *, wrapped: bool) -> TrainStep:
    train, device = job.config.train, job.accelerator.device
    if train.compile:
        job.learner.model.compile()
    weights = class_weights(job.config, job.data.stores["train"].rows, job.data.dataset.words)
    return TrainStep(
        _wrapped(job) if wrapped else job.learner.model,
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
        norm_statistics=job.learner.norm_statistics,
        teacher=job.teacher.teacher.to(device) if job.teacher else None,
    )


def _wrapped(job: Job) -> torch.nn.Module:
    """Return the model as the accelerator prepares it, for several ranks.

    It stays where it is: with several processes on a CPU the accelerator would move it to "cpu:0", which copies, and
    what refers to its tensors, the average and the kept statistics, would go on with the old ones.
    """
    with warnings.catch_warnings():
        # torch renames this option; accelerate has only the old name, and older torch knows no other.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return job.accelerator.prepare_model(job.learner.model, device_placement=False)


def evaluator_of(job: Job, split: str, stop: StopRequest) -> Evaluator:
    """Return an evaluator of a split that the data have, which gives up when a stop is asked for."""
    rate_hz = job.data.dataset.sample_rate_hz
    front_end = evaluation_front_end(job.config.features, rate_hz, job.learner.statistics)
    return Evaluator(
        job.data.stores[split],
        front_end.to(job.accelerator.device),
        job.accelerator,
        num_classes=len(job.data.dataset.words),
        stops=partial(_stops, job, stop),
    )


def _stops(job: Job, stop: StopRequest) -> bool:
    """Whether any rank was asked to stop."""
    return any_rank(job.accelerator, stop.asked)


def _agreed(job: Job, model: torch.nn.Module) -> torch.nn.Module:
    """Return a model of this rank with the same statistics as on all ranks."""
    average_buffers(model, job.accelerator)
    return model


def _first_keys(job: Job, worker: DeviceWorker, step: int) -> list[str]:
    """Return the keys of the first clips of a step."""
    draws = job.sampler.draws(worker.draw_numbers(step)[:8])
    return [job.data.stores["train"].rows.keys[clip] for clip in draws.clip]
