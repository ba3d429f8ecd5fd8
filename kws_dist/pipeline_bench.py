"""How fast raw PCM becomes augmented features on a device, beside the most that the device allows.

What `tools/bench.py pipeline` runs. The whole way is timed through the worker that training uses: its batches are taken
and dropped, once as they are and once cast to bfloat16, as a model under autocast does first. Nothing is trained.

Then every stage is timed alone, on batches that are there. Its share of a ceiling is the least that it has to do (see
`Stage`) over its time: how far it is from what the device could do, however busy it keeps the device meanwhile. Small
batches, as on a CPU, stay in a cache, which is faster than memory: then a share can be above 1.
"""

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.pipeline_stages import BATCHES, Pipeline, Stage
from kws_dist.roofline import Limits, device_name, limits_of, wait_for

WHOLE, WHOLE_BF16 = "all", "all, cast to bf16"

_TURNS = 2 * BATCHES
_CPU_BATCHES = 16

_Times = tuple[float, float]
"""Seconds for a clip: until it is done, and until the host has queued it."""


def bench_pipeline(
    *, device: torch.device, clips: int | None = None, batch: int = 2048, rounds: int = 5
) -> dict[str, Any]:
    """Time the whole way and each stage in turns; return the medians of the rounds, with the roofline.

    `clips`, by default 100,000 on a GPU and 4,000 on a CPU, lie in the device's memory, 32 kB each.
    """
    clips = clips or (100_000 if device.type == "cuda" else 4_000)
    pipeline, limits = Pipeline.build(device, clips, batch), limits_of(device)
    with torch.no_grad():
        stages = pipeline.stages()
        runs: dict[str, Callable[[], _Times]] = {
            WHOLE: _through_worker(pipeline, 1 + rounds, lambda batch: batch.features),
            WHOLE_BF16: _through_worker(pipeline, 1 + rounds, lambda batch: batch.features.to(torch.bfloat16)),
            **{stage.name: lambda stage=stage: _alone(stage, device) for stage in stages},
        }
        times = [{name: run() for name, run in runs.items()} for _ in range(1 + rounds)][1:]  # the first is to warm up
    work = {stage.name: (stage.bytes_per_clip, stage.flops_per_clip) for stage in stages}
    *most, cast = work.values()
    work = {WHOLE: _sum(most), WHOLE_BF16: _sum([*most, cast]), **work}
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "clips": clips,
        "batch_clips": batch,
        "rounds": rounds,
        "limits": vars(limits),
        "stages": {name: _figures([some[name] for some in times], *work[name], batch, limits) for name in runs},
    }


def _through_worker(pipeline: Pipeline, rounds: int, use: Callable[[Batch], object]) -> Callable[[], _Times]:
    """Return what takes the next batches of one long run, so that each round finds the worker in full swing."""
    batch, device = pipeline.batch, pipeline.device
    worker = DeviceWorker(pipeline.store, pipeline.sampler, pipeline.front_end, BatchSlice(global_batch=batch), device)
    # On a GPU as many clips as are drawn at once, so that each round has its share of the drawing.
    count = max(pipeline.drawn_at_once // batch, 1) if device.type == "cuda" else _CPU_BATCHES
    batches = worker.batches(0, rounds * count)

    def run() -> None:
        for _ in range(count):
            use(next(batches))

    return lambda: _timed(run, count * batch, device)


def _alone(stage: Stage, device: torch.device) -> _Times:
    def run() -> None:
        for turn in range(_TURNS):
            stage.run(turn % BATCHES)

    return _timed(run, _TURNS * stage.clips, device)


def _timed(run: Callable[[], None], clips: int, device: torch.device) -> _Times:
    wait_for(device)
    started_s = time.perf_counter()
    run()
    queued_s = time.perf_counter() - started_s
    wait_for(device)
    return (time.perf_counter() - started_s) / clips, queued_s / clips


def _sum(work: Iterable[tuple[float, float]]) -> tuple[float, float]:
    bytes_per_clip, flops_per_clip = zip(*work, strict=True)
    return sum(bytes_per_clip), sum(flops_per_clip)


def _figures(
    times: list[_Times], bytes_per_clip: float, flops_per_clip: float, batch: int, limits: Limits
) -> dict[str, float]:
    done_s, queued_s = (median(column) for column in zip(*times, strict=True))
    return {
        "clips_per_s": 1 / done_s,
        "batch_us": 1e6 * batch * done_s,
        "batch_queued_us": 1e6 * batch * queued_s,
        "bytes_per_clip": bytes_per_clip,
        "flops_per_clip": flops_per_clip,
        "most_clips_per_s": limits.clips_per_s(bytes_per_clip, flops_per_clip),
        "share_of_memory": bytes_per_clip / done_s / limits.memory_bytes_per_s,
        "share_of_fp32": flops_per_clip / done_s / limits.fp32_flops_per_s,
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures of `bench_pipeline` as a table of 80 columns."""
    limits = result["limits"]
    table = Table(
        title=f"raw PCM to log-mel, batches of {result['batch_clips']:,} on {result['device']}",
        caption=f"kB and kFLOP: the least for a clip, and its share of what the device can do ({limits['source']}): "
        f"{limits['memory_bytes_per_s'] / 1e9:,.0f} GB/s of memory, {limits['fp32_flops_per_s'] / 1e12:.3g} TFLOP/s",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    table.add_column("stage", no_wrap=True)
    for column in ("clips/s", "µs/batch", "host µs", "kB", "kFLOP", "memory", "fp32"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, of in result["stages"].items():
        table.add_row(
            name,
            *(f"{of[figure]:,.0f}" for figure in ("clips_per_s", "batch_us", "batch_queued_us")),
            *(f"{of[figure] / 1000:,.0f}" for figure in ("bytes_per_clip", "flops_per_clip")),
            *(f"{of[figure]:.1%}" for figure in ("share_of_memory", "share_of_fp32")),
        )
    Console().print(table)
