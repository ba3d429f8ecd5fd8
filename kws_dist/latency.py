"""How fast a model answers on a device: one clip at a time, and many at once, from samples to probabilities."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kws_dist.frontend.pipeline import FrontEnd

_BUDGET_S = 0.7
_MOST_REPEATS = 300
_CPU_BATCH, _GPU_BATCH = 64, 1024


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a model is in float32, its features included."""

    latency_ms: float
    """Mean time from the samples of one clip in the memory of the host to its probabilities there."""
    latency_p95_ms: float
    """95 of 100 clips take no longer."""
    batch: int
    """Clips in the batches whose throughput was measured."""
    clips_per_s: float
    """Throughput of such batches."""
    device: str
    """Name of the GPU, or `cpu` and the number of threads."""

    def __str__(self) -> str:
        """Say it in a line."""
        alone = f"{self.latency_ms:.2f} ms a clip (95 % within {self.latency_p95_ms:.2f} ms)"
        return f"{alone}, {self.clips_per_s:,.0f} clips/s in batches of {self.batch}; float32, {self.device}"


@torch.inference_mode()
def measure(
    front_end: FrontEnd, model: nn.Module, clip_samples: int, device: torch.device, *, budget_s: float = _BUDGET_S
) -> Speed:
    """Measure a model and its front end without augmentation, both on `device`, with clips of `clip_samples`.

    It takes about 2.5 times `budget_s`, or 5 batches of one clip if that is longer. The model is left in the mode it
    was in. Each answer is brought to the host, which waits for the device.
    """
    was_training = model.training
    model.eval()
    noise = torch.randint(-3000, 3000, (clip_samples,), dtype=torch.int16, generator=torch.Generator().manual_seed(0))

    def answer(pcm: Tensor) -> Tensor:
        nothing = torch.zeros(len(pcm), dtype=torch.int64, device=device)
        return model(front_end(pcm.to(device), nothing, nothing)).float().softmax(1).cpu()

    try:
        one = noise[None]
        _times_s(lambda: answer(one), budget_s / 2, least=2)  # first calls compile, choose kernels, take memory
        alone_s = _times_s(lambda: answer(one), budget_s, least=2)
        batch = _GPU_BATCH if device.type == "cuda" else _CPU_BATCH
        while batch > 1 and device.type == "cpu" and batch * statistics.median(alone_s) > budget_s / 2:
            batch //= 2
        many = noise.expand(batch, -1).contiguous()
        answer(many)
        together_s = _times_s(lambda: answer(many), budget_s, least=1)
    finally:
        model.train(was_training)
    return Speed(
        latency_ms=1000 * statistics.fmean(alone_s),
        latency_p95_ms=1000 * _percentile(alone_s, 0.95),
        batch=batch,
        clips_per_s=batch * len(together_s) / sum(together_s),
        device=_name(device),
    )


def _times_s(run: Callable[[], object], budget_s: float, *, least: int) -> list[float]:
    """Run for `budget_s`, but not fewer times than `least`, and return how long each time took."""
    times_s: list[float] = []
    while len(times_s) < least or (sum(times_s) < budget_s and len(times_s) < _MOST_REPEATS):
        begin_s = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - begin_s)
    return times_s


def _percentile(values: list[float], share: float) -> float:
    """Return the smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(-int(-share * len(values) // 1), 1) - 1]


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type
