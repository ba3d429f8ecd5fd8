"""Measure how fast things are.

    python tools/bench.py train --config configs/bcresnet1.yaml --data.shards DIR
    python tools/bench.py shards --clips 20000

`train`: the training loop (draws, gather, augmentation, features, model, optimizer, logging) against a bare loop of
the same front end, model and optimizer on one batch that is already there. The two take turns in one process, so
that a machine whose speed drifts is equally fast for both; the ratio is the median of the turns' ratios.

`shards`: a folder of 1-second WAVs, just written, is listed and made into shards, by one process and by one for each
core, and the shards are verified; median of the rounds. The files lie in $TMPDIR.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from kws_dist.config import Config, parse
from kws_dist.display import silent
from kws_dist.errors import main_guard
from kws_dist.process import keep_freed_memory, use_cores
from kws_dist.shards_bench import bench_shards
from kws_dist.tracking import MetricsFile, Tracker
from kws_dist.training.data import training_front_end
from kws_dist.training.learner import build_learner
from kws_dist.training.loop import Loop, Progress
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.report import device_name
from kws_dist.training.session import Job, build_job, parts_of
from kws_dist.training.stop import StopRequest


def bare_step(job: Job, *, augmented: bool) -> Callable[[], None]:
    """Return one step of the bare loop: features, forward, backward, optimizer, on one resident batch."""
    device, config = job.accelerator.device, job.config
    front_end = training_front_end(config, job.data).to(device)
    if not augmented:
        front_end.wave_augment, front_end.feature_augment = torch.nn.ModuleList(), torch.nn.ModuleList()
    draws = job.sampler.draws(job.batch_slice.draw_numbers(0, 0))
    store = job.data.stores["train"]
    pcm, numbers = store.gather(draws.clip).clone(), torch.from_numpy(draws.t).to(device)
    labels = torch.from_numpy(store.rows.label[draws.clip]).to(device)
    learner = build_learner(config, num_classes=len(job.data.dataset.words), device=device)
    model, optimizer = learner.model.train(), learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = 1e-3

    def step() -> None:
        with torch.no_grad():
            features = front_end(pcm, numbers, labels)
        with job.accelerator.autocast():
            logits = model(features)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

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
    config = replace(config, run_dir=str(folder), train=replace(config.train, accumulate=1))
    accelerator = make_accelerator(config.train.precision)
    job = build_job(config, accelerator)
    rows, device = job.batch_slice.global_batch, accelerator.device
    loop = Loop(
        parts_of(job, StopRequest(), Tracker([MetricsFile(folder / "metrics.jsonl")]), silent()),
        config.train,
        Progress(),
    )
    bare = {name: bare_step(job, augmented=name == "bare") for name in ("bare", "bare_without_augmentation")}
    ways: dict[str, Callable[[], None]] = {
        "training": lambda: loop.train_until(loop.progress.step + steps),
        **{name: lambda step=step: [step() for _ in range(steps)] and None for name, step in bare.items()},
    }
    for run in ways.values():  # warm-up
        clips_per_s(run, rows * steps, device)
    turns = [{name: clips_per_s(run, rows * steps, device) for name, run in ways.items()} for _ in range(rounds)]
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
        "epoch": _whole_epoch(job, loop, speed["training"]),
    }


def _whole_epoch(job: Job, loop: Loop, training_clips_per_s: float) -> dict[str, float]:
    """Return what validation and a checkpoint add to an epoch."""
    started_s = time.perf_counter()
    loop.validate(1, started_s)
    extra_s = time.perf_counter() - started_s
    clips = job.sampler.steps_per_epoch * job.batch_slice.global_batch
    train_s = clips / training_clips_per_s
    return {
        "train_s": train_s,
        "validate_and_save_s": extra_s,
        "clips_per_s": clips / (train_s + extra_s),
    }


def show_shards(result: dict[str, Any]) -> None:
    """Print the figures of shards as a table."""
    table = Table("", "clips/s", title=f"{result['clips']:,} clips on {result['cores']} cores")
    for name, speed in result["clips_per_s"].items():
        table.add_row(name, f"{speed:,.0f}")
    Console().print(table)


def show_train(result: dict[str, Any]) -> None:
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


def main() -> int:
    """Parse, measure, print; what is not a flag of the benchmark is one of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "shards"])
    parser.add_argument("--steps", type=int, default=10, help="train: steps in each turn")
    parser.add_argument("--clips", type=int, default=20_000, help="shards: how many")
    parser.add_argument("--rounds", type=int, help="turns; 7 for train, 3 for shards")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    own, rest = parser.parse_known_args()
    config = parse(rest)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            if own.what == "shards":
                result = bench_shards(Path(folder), clips=own.clips, rounds=own.rounds or 3)
            else:
                keep_freed_memory()
                if not torch.cuda.is_available():
                    use_cores()
                result = bench_train(config, steps=own.steps, rounds=own.rounds or 7, folder=Path(folder))
        {"shards": show_shards, "train": show_train}[own.what](result)
        print(json.dumps(result))
        if own.json:
            own.json.write_text(json.dumps(result, indent=1) + "\n")

    return main_guard(run, debug=config.debug)


if __name__ == "__main__":
    sys.exit(main())
