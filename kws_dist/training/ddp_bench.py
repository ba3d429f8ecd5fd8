"""What several processes cost: the step of one beside the same step in DDP; what `tools/bench.py ddp` runs.

Weak scaling: each process has a batch of its own, as large as one alone would have. All are busy at all times, also
when nothing is exchanged, so that they share the memory and the caches of the machine in every row alike.
"""

import os
import statistics
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from kws_dist.config import Config
from kws_dist.corpus.clip import SAMPLE_RATE_HZ
from kws_dist.frontend.features import Features
from kws_dist.frontend.normalize import Statistics
from kws_dist.model_figures import count_parameters
from kws_dist.process import use_cores
from kws_dist.roofline import device_name, done_s
from kws_dist.training.learner import build_learner

_WORDS = 35
_BUCKETS_MB = (25.0, 4.0, 1.0)
_ALONE, _WRAPPED, _SUMMED, _SUM_ALONE = "one process alone", "DDP, nothing summed", "DDP", "all-reduce alone"

Step = Callable[[], object]


def bench_ddp(config: Config, *, steps: int, rounds: int) -> dict[str, Any]:
    """Start a process for each GPU, or two on a CPU, and time `steps` steps of each way in turns."""
    build_learner(config, num_classes=_WORDS, sample_rate_hz=SAMPLE_RATE_HZ, device=torch.device("cpu"))  # or an error
    gpus = torch.cuda.device_count()
    backend, processes = ("nccl", gpus) if gpus > 1 else ("gloo", 2)
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id="bench", max_restarts=0, start_method="spawn",
    )  # fmt: skip
    return elastic_launch(launch, entrypoint=_measure)(config, backend, steps, rounds)[0]


def _measure(config: Config, backend: str, steps: int, rounds: int) -> dict[str, Any]:
    """Measure in one of the processes, and return the same figures in all."""
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        use_cores()
    dist.init_process_group(backend)
    turns, parameters = _turns(config, device, steps, rounds)
    dist.barrier()
    dist.destroy_process_group()
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "backend": backend,
        "processes": int(os.environ["WORLD_SIZE"]),
        "model": {"name": config.model.name, **config.model.params},
        "batch_clips": config.train.global_batch,
        "parameters": parameters,
        "gradient_bytes": 4 * parameters,
        "step_ms": {name: 1e3 * statistics.median(turn[name] for turn in turns) for name in turns[0]},
        "to_alone": {name: statistics.median(turn[name] / turn[_ALONE] for turn in turns) for name in turns[0]},
        "overhead": {
            "wrapper": statistics.median((turn[_WRAPPED] - turn[_ALONE]) / turn[_ALONE] for turn in turns),
            "all_reduce": statistics.median((turn[_SUMMED] - turn[_WRAPPED]) / turn[_ALONE] for turn in turns),
            "total": statistics.median((turn[_SUMMED] - turn[_ALONE]) / turn[_ALONE] for turn in turns),
        },
    }


def _turns(config: Config, device: torch.device, steps: int, rounds: int) -> tuple[list[dict[str, float]], int]:
    """Return the time of each way in seconds, for each round, and the model's parameters.

    No DDP outlives this function: one that is let go after the process group is destroyed takes the group's threads
    down with it while it holds Python's lock, and where such a thread waits for the lock, both wait for ever.
    """
    ways, parameters = _ways(config, device)
    for step in ways.values():
        _timed_s(step, steps, device)
    return [{name: _timed_s(step, steps, device) for name, step in ways.items()} for _ in range(rounds)], parameters


def _ways(config: Config, device: torch.device) -> tuple[dict[str, Step], int]:
    """Return what takes turns, each with a model of its own, and the model's parameters."""
    batch = _batch(config, device)
    build = partial(_training_step, config, batch)
    ways = {_ALONE: build(ddp=None), _WRAPPED: build(ddp={}, sums=False), _SUMMED: build(ddp={})}
    for bucket_mb in _BUCKETS_MB[1:]:
        ways[f"{_SUMMED}, buckets of {bucket_mb:g} MB"] = build(ddp={"bucket_cap_mb": bucket_mb})
    ways[f"{_SUMMED}, gradients sent in bf16"] = build(ddp={}, compress=True)
    model = build_learner(config, num_classes=_WORDS, sample_rate_hz=SAMPLE_RATE_HZ, device=device).model
    parameters = count_parameters(model)
    ways[_SUM_ALONE] = partial(dist.all_reduce, torch.zeros(parameters, device=device))
    return ways, parameters


def _batch(config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return features `(B, 1, bins, frames)` of noise, and labels `(B,)`; the features themselves are not timed."""
    bins, clips = config.features.bins, config.train.global_batch
    statistics_ = Statistics((0.0,) * bins, (1.0,) * bins)
    front_end = Features(config.features, sample_rate_hz=SAMPLE_RATE_HZ, statistics=statistics_).to(device)
    wave = 0.1 * torch.randn(clips, round(config.data.clip_seconds * SAMPLE_RATE_HZ), device=device)
    with torch.no_grad():
        return front_end(wave), torch.randint(_WORDS, (clips,), device=device)


def _training_step(
    config: Config,
    batch: tuple[Tensor, Tensor],
    *,
    ddp: dict[str, Any] | None,
    sums: bool = True,
    compress: bool = False,
) -> Step:
    """Return forward, backward and update on `batch`; `ddp`: None for no wrapper, or its options."""
    (features, labels), device = batch, batch[0].device
    learner = build_learner(config, num_classes=_WORDS, sample_rate_hz=SAMPLE_RATE_HZ, device=device)
    model, optimizer = learner.model.train(), learner.optimizer
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["scale"]
    if ddp is not None:
        options = {"bucket_cap_mb": _BUCKETS_MB[0], "gradient_as_bucket_view": True, "broadcast_buffers": False}
        with warnings.catch_warnings():
            # torch renames this option; older torch knows no other.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            model = DistributedDataParallel(model, static_graph=sums, **{**options, **ddp})
        if compress:
            model.register_comm_hook(None, _in_bf16)
    precision = config.train.precision
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")

    def step() -> None:
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not sums else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(features)
            F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)

    return step


def _in_bf16(
    state: Any,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """Send gradients in bf16, over gloo as well, where DDP refuses torch's hook by its name."""
    return bf16_compress_hook(state, bucket)


def _timed_s(step: Step, steps: int, device: torch.device) -> float:
    """Return the time of a step in the slowest process; all begin together."""

    def repeat() -> None:
        for _ in range(steps):
            step()

    dist.barrier()
    longest_s = torch.tensor([done_s(repeat, device) / steps], device=device)
    dist.all_reduce(longest_s, dist.ReduceOp.MAX)
    return longest_s.item()


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    title = f"{result['model']['name']}, {result['processes']} processes on {result['device']} ({result['backend']})"
    table = Table(title=f"{title}, batch {result['batch_clips']} each")
    table.add_column("step")
    table.add_column("ms", justify="right")
    table.add_column("this / alone", justify="right")
    for name, time_ms in result["step_ms"].items():
        table.add_row(name, f"{time_ms:.2f}", f"{result['to_alone'][name]:.3f}")
    overhead = result["overhead"]
    Console().print(table)
    Console().print(
        f"{result['gradient_bytes'] / 1e6:.3f} MB of gradients; of a step alone, the wrapper adds"
        f" {overhead['wrapper']:+.1%} and summing {overhead['all_reduce']:+.1%}, together {overhead['total']:+.1%}"
    )
