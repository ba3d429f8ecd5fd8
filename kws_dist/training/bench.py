"""The training loop against a bare loop of the same parts; what `tools/bench.py train` runs."""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from kws_dist.config import Config
from kws_dist.display import silent
from kws_dist.tracking import MetricsFile, Tracker
from kws_dist.training.front_end import training_front_end
from kws_dist.training.job import Job, build_job
from kws_dist.training.learner import build_learner
from kws_dist.training.loop import Loop
from kws_dist.training.parts import parts_of
from kws_dist.training.progress import Progress
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.report import device_name
from kws_dist.training.saver import Saver
from kws_dist.training.session import statistics_of
from kws_dist.training.stop import StopRequest

_EPOCHS = 1_000_000  # so that the batches of one long run never end


def bare_step(job: Job, *, augmented: bool) -> Callable[[], None]:
    """Return one step of the bare loop: features, forward, backward, optimizer, on one resident batch.

    Clipping and the average of the weights belong to a recipe that has them, so this loop has them too.
    """
    device, config = job.accelerator.device, job.config
    front_end = training_front_end(config, job.data, job.learner.statistics).to(device)
    if not augmented:
        front_end.wave_augment, front_end.feature_augment = torch.nn.ModuleList(), torch.nn.ModuleList()
    draws = job.sampler.draws(job.batch_slice.draw_numbers(0, 0))
    store = job.data.stores["train"]
    pcm, numbers = store.gather(draws.clip).clone(), torch.from_numpy(draws.t).to(device)
    labels = torch.from_numpy(store.rows.label[draws.clip]).to(device)
    partner = () if front_end.mix is None else (pcm.flip(0), labels.flip(0))
    dataset = job.data.dataset
    learner = build_learner(
        config, num_classes=len(dataset.words), sample_rate_hz=dataset.sample_rate_hz, device=device
    )
    model, optimizer = learner.model.train(), learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["scale"]

    clip_norm, average = config.train.clip_norm, learner.average
    taken = itertools.count()

    def step() -> None:
        with torch.no_grad():
            features = front_end(pcm, numbers, labels, *partner)
        with job.accelerator.autocast():
            logits = model(features)
        F.cross_entropy(logits.float(), labels).backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        if average:
            average.update(next(taken))

    return step


def clips_per_s(run: Callable[[], None], clips: int, device: torch.device) -> float:
    """Return how many of the `clips` that `run` handles go through per second."""
    started_s = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clips / (time.perf_counter() - started_s)


def bench_train(config: Config, *, steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time the training loop and the bare loops in turns of `steps` steps."""
    config = replace(config, run_dir=str(folder), train=replace(config.train, accumulate=1, epochs=_EPOCHS))
    accelerator = make_accelerator(config.train)
    job = build_job(config, accelerator)
    job.learner.statistics = statistics_of(job)
    rows, device = job.batch_slice.global_batch, accelerator.device
    saver = Saver(job.run, warnings.warn, lambda *_: None)
    tracker = Tracker([MetricsFile(folder / "metrics.jsonl")])
    loop = Loop(parts_of(job, StopRequest(), tracker, silent(), saver=saver), config.train, Progress())
    bare = {name: bare_step(job, augmented=name == "bare") for name in ("bare", "bare_without_augmentation")}
    waited: list[float] = []

    def train() -> None:
        before_s, started_s = loop.parts.worker.wait_s, time.perf_counter()
        for _ in range(steps):
            loop.take_step()
        loop.log()  # which waits for the device
        waited.append((loop.parts.worker.wait_s - before_s) / (time.perf_counter() - started_s))

    ways: dict[str, Callable[[], None]] = {
        "training": train,
        **{name: partial(_repeat, step, steps) for name, step in bare.items()},
    }
    for run in ways.values():  # warm-up
        clips_per_s(run, rows * steps, device)
    turns = [{name: clips_per_s(run, rows * steps, device) for name, run in ways.items()} for _ in range(rounds)]
    epoch = _whole_epoch(job, loop, saver, statistics.median(turn["training"] for turn in turns))
    loop.close()
    speed = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    ratio = {name: statistics.median(turn["training"] / turn[name] for turn in turns) for name in bare}
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "model": {"name": config.model.name, **config.model.params},
        "precision": accelerator.mixed_precision,
        "batch_clips": rows,
        "clips_per_s": speed,
        "training_to": ratio,
        "data_wait_share": statistics.median(waited[1:]),
        "epoch": epoch,
    }


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _whole_epoch(job: Job, loop: Loop, saver: Saver, training_clips_per_s: float) -> dict[str, float]:
    """Return what validation and a checkpoint add to an epoch, which is written while the next one begins."""
    started_s, waited_s = time.perf_counter(), saver.waited_s
    loop.validate()
    extra_s = time.perf_counter() - started_s
    saver.finish()
    clips = job.sampler.steps_per_epoch * job.batch_slice.global_batch
    train_s = clips / training_clips_per_s
    return {
        "train_s": train_s,
        "validate_and_save_s": extra_s,
        "save_wait_share": (saver.waited_s - waited_s) / (train_s + extra_s),
        "clips_per_s": clips / (train_s + extra_s),
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures of training as a table."""
    table = Table(title=f"{result['model']['name']} on {result['device']}, batch {result['batch_clips']}")
    table.add_column("loop")
    table.add_column("clips/s", justify="right")
    table.add_column("training / this", justify="right")
    for name, speed in result["clips_per_s"].items():
        ratio = result["training_to"].get(name)
        table.add_row(name.replace("_", " "), f"{speed:.0f}", f"{ratio:.3f}" if ratio else "")
    epoch = result["epoch"]
    table.add_row("training, validation and checkpoint of an epoch", f"{epoch['clips_per_s']:.0f}", "")
    Console().print(table)
    Console().print(
        f"training waits for data {100 * result['data_wait_share']:.2f} % of the time, and with one checkpoint an epoch"
        f" {100 * epoch['save_wait_share']:.3f} % for saving"
    )
