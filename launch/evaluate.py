"""Evaluate a trained run: `accelerate launch launch/evaluate.py --run_dir RUN [--data.shards OTHER] [--split test]`.

The model is rebuilt from the run folder, or a checkpoint folder, alone. The last line printed is a JSON object with the
figures.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from accelerate import Accelerator

from kws_dist.config import TrainConfig
from kws_dist.errors import UsageError, main_guard
from kws_dist.evaluation.evaluate import Evaluator
from kws_dist.process import keep_freed_memory, use_cores
from kws_dist.training.data import open_data
from kws_dist.training.failure import shared_fate
from kws_dist.training.ranks import for_this_machine, make_accelerator, precision_of, ranks_for_data
from kws_dist.training.rebuild import Rebuilt, rebuild


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """Which clips."""

    shards: str = ""
    """Folder of shards, or its URL. Default: the one that the run was trained on."""
    residency: Literal["auto", "device", "host", "stream"] = "auto"
    """Where clips live: in device memory, in memory-mapped files, or fetched while they are used."""
    on_bad_clip: Literal["error", "skip"] = "error"
    """A damaged clip ends the evaluation, or is left out and counted."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate a trained run and print the figures as one line of JSON."""

    run_dir: str
    """Folder of the run, or of a checkpoint."""
    split: Literal["test", "val", "train"] = "test"
    """Which clips of the shards."""
    precision: Literal["", "auto", "fp32", "bf16", "fp16"] = ""
    """Arithmetic of the model. Default: the run's, which is fp32 instead of fp16 where there is no GPU."""
    data: DataArguments = field(default_factory=DataArguments)
    debug: bool = False
    """Show tracebacks of errors."""


def evaluate(arguments: Arguments) -> None:
    """Evaluate on every process that was launched; each takes its share of the clips."""
    keep_freed_memory()
    trained = rebuild(Path(arguments.run_dir))
    accelerator = make_accelerator(_settings(arguments, trained.config.train))
    if accelerator.device.type == "cpu":
        use_cores()
    with shared_fate(accelerator, debug=arguments.debug):
        _print_figures(arguments, trained, accelerator)


def _settings(arguments: Arguments, train: TrainConfig) -> TrainConfig:
    if not arguments.precision:
        return for_this_machine(train)
    if arguments.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("--precision fp16 needs a GPU: choose fp32 or bf16")
    return replace(train, precision=arguments.precision)


def _print_figures(arguments: Arguments, trained: Rebuilt, accelerator: Accelerator) -> None:
    given = arguments.data
    shards = given.shards or trained.config.data.shards
    config = replace(trained.config.data, shards=shards, residency=given.residency, on_bad_clip=given.on_bad_clip)
    data = open_data(
        config,
        accelerator.device,
        (arguments.split,),
        words=trained.words,
        ranks=ranks_for_data(accelerator),
        warn=accelerator.print,
    )
    if arguments.split not in data.stores:
        raise UsageError(f"--split {arguments.split}: {shards} holds only {', '.join(data.dataset.splits)}")
    evaluator = Evaluator(
        data.stores[arguments.split],
        trained.front_end.to(accelerator.device),
        accelerator,
        num_classes=len(trained.words),
    )
    result = evaluator(trained.model.to(accelerator.device))
    if accelerator.is_main_process:
        about = {
            "run_dir": arguments.run_dir,
            "shards": shards,
            "split": arguments.split,
            "step": trained.state["step"],
            "precision": precision_of(accelerator),
        }
        print(json.dumps({**about, **result.as_dict(trained.words), "skipped_clips": len(data.skipped_keys)}))
    data.close()


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, use_underscores=True)
    raise SystemExit(main_guard(lambda: evaluate(arguments), debug=arguments.debug))
