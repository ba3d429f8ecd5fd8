"""Measure how fast things are, each against what it could be at best.

    python tools/bench.py train --config configs/bcresnet1.yaml --data.shards DIR
    python tools/bench.py data --data.shards DIR
    python tools/bench.py features
    python tools/bench.py pipeline
    python tools/bench.py shards
    python tools/bench.py scaling
    python tools/bench.py ddp --config configs/bcresnet1.yaml

`train`: the training loop (draws, gather, augmentation, features, model, optimizer, logging) against a bare loop of
the same front end, model and optimizer on one batch that is already there, and the share of the time in which it
waits for data.

`data`: clips out of shards in true random order by each store, webdataset's shuffled stream, a map-style data set in a
DataLoader, and the machine's memcpy of as many bytes.

`features`: each kind of features, and each way to a spectrum, against torchaudio and the Fourier transform alone.

`pipeline`: PCM in the device's memory to augmented features in bf16, without any training, and each stage of it beside
the bytes it moves, the operations it computes, and the share of the device's limits that this is.

`shards`: a folder of 1-second WAVs, just written, is listed and made into shards, by one process and by one for each
core, and the shards are verified. The files lie in $TMPDIR.

`scaling`: memory and time to the first batch for data and numbers of ranks larger than any, and a model of what
summing gradients costs on 8, 64 and 512 GPUs.

`ddp`: a training step on several processes (one for each GPU, or two on a CPU) with and without DDP's wrapper, with and
without summing gradients, in buckets of several sizes and in bf16. It starts the processes itself.

What is compared takes turns in one process, so that a machine whose speed drifts is equally fast for all; figures are
medians over the rounds, ratios medians of each turn's ratio.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kws_dist import communication, data_bench, features_bench, pipeline_bench, scaling_bench, shards_bench
from kws_dist.config import parse
from kws_dist.errors import UsageError, main_guard
from kws_dist.process import keep_freed_memory, use_cores
from kws_dist.training import bench as train_bench
from kws_dist.training import ddp_bench

Result = dict[str, Any]


def bench_train(own: argparse.Namespace, rest: list[str], folder: Path) -> Result:
    """Time the training loop."""
    keep_freed_memory()
    return train_bench.bench_train(parse(rest), steps=own.steps, rounds=own.rounds or 7, folder=folder)


def bench_data(own: argparse.Namespace, rest: list[str], _: Path) -> Result:
    """Time reading clips."""
    config = parse(rest)
    if not config.data.shards:
        raise UsageError("--data.shards is missing: name a folder that tools/make_shards.py made")
    if "://" in config.data.shards:
        raise UsageError(f"--data.shards {config.data.shards}: this benchmark reads a folder, not a URL")
    keep_freed_memory()
    return data_bench.bench_data(
        Path(config.data.shards), rounds=own.rounds or 5, batch=own.batch or 256, clips=own.clips or 20_000
    )


def bench_features(own: argparse.Namespace, rest: list[str], _: Path) -> Result:
    """Time features."""
    _refuse(rest)
    return features_bench.bench_features(device=_device(), clips=own.clips, rounds=own.rounds or 5)


def bench_pipeline(own: argparse.Namespace, rest: list[str], _: Path) -> Result:
    """Time the way from PCM to features."""
    _refuse(rest)
    keep_freed_memory()
    batch = own.batch or (2048 if torch.cuda.is_available() else 64)
    return pipeline_bench.bench_pipeline(device=_device(), clips=own.clips, batch=batch, rounds=own.rounds or 5)


def bench_shards(own: argparse.Namespace, rest: list[str], folder: Path) -> Result:
    """Time making and verifying shards."""
    _refuse(rest)
    return shards_bench.bench_shards(folder, clips=own.clips or 20_000, rounds=own.rounds or 3)


def bench_scaling(_own: argparse.Namespace, rest: list[str], _: Path) -> Result:
    """Work out what grows."""
    _refuse(rest)
    return {**scaling_bench.bench_scaling(), "communication": communication.communication()}


def show_scaling(result: Result) -> None:
    """Print what data and what gradients cost."""
    scaling_bench.show(result)
    communication.show(result["communication"])


def bench_ddp(own: argparse.Namespace, rest: list[str], _: Path) -> Result:
    """Time steps on several processes."""
    keep_freed_memory()
    return ddp_bench.bench_ddp(parse(rest), steps=own.steps, rounds=own.rounds or 7)


BENCHES: dict[str, tuple[Callable[[argparse.Namespace, list[str], Path], Result], Callable[[Result], None]]] = {
    "train": (bench_train, train_bench.show),
    "data": (bench_data, data_bench.show),
    "features": (bench_features, features_bench.show),
    "pipeline": (bench_pipeline, pipeline_bench.show),
    "shards": (bench_shards, shards_bench.show),
    "scaling": (bench_scaling, show_scaling),
    "ddp": (bench_ddp, ddp_bench.show),
}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _refuse(rest: list[str]) -> None:
    if rest:
        raise UsageError(f"{' '.join(rest)}: this benchmark has no such setting; --help lists what it has")


def main() -> int:
    """Parse, measure, print; for train, data and ddp, what is not a flag of the benchmark is a setting of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(BENCHES))
    parser.add_argument("--steps", type=int, default=10, help="steps in each turn: train, ddp")
    parser.add_argument("--clips", type=int, help="how many: data, features, pipeline, shards")
    parser.add_argument("--batch", type=int, help="clips at a time: data, pipeline")
    parser.add_argument("--rounds", type=int, help="turns")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    own, rest = parser.parse_known_args()
    debug = "--debug" in rest
    rest = [word for word in rest if word != "--debug"]
    measure, show = BENCHES[own.what]

    def run() -> None:
        for name in ("steps", "clips", "batch", "rounds"):
            if getattr(own, name) is not None and getattr(own, name) < 1:
                raise UsageError(f"--{name} {getattr(own, name)} should be 1 or more")
        if own.json and not own.json.parent.is_dir():
            raise UsageError(f"--json {own.json}: there is no folder {own.json.parent}")
        if not torch.cuda.is_available():
            use_cores()
        with tempfile.TemporaryDirectory() as folder:
            result = measure(own, rest, Path(folder))
        show(result)
        print(json.dumps(result))
        if own.json:
            own.json.write_text(json.dumps(result, indent=1) + "\n")

    return main_guard(run, debug=debug)


if __name__ == "__main__":
    sys.exit(main())
