"""What a device can do at most, to hold measured speeds against: the roofline of Williams et al. (2009).

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 52(4).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_DATASHEET = {
    "NVIDIA H200": (4.8e12, 67e12),
    "NVIDIA H200 NVL": (4.8e12, 60e12),
    "NVIDIA H100 80GB HBM3": (3.35e12, 67e12),
    "NVIDIA H100 NVL": (3.9e12, 60e12),
    "NVIDIA H100 PCIe": (2.0e12, 51e12),
    "NVIDIA A100-SXM4-80GB": (2.039e12, 19.5e12),
    "NVIDIA A100 80GB PCIe": (1.935e12, 19.5e12),
    "NVIDIA A100-SXM4-40GB": (1.555e12, 19.5e12),
    "NVIDIA A100-PCIE-40GB": (1.555e12, 19.5e12),
}
"""Bytes, and fp32 operations outside the tensor cores, per second; by the name that the driver gives."""

_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The two ceilings of a device."""

    memory_bytes_per_s: float
    """Bytes read and bytes written, together."""
    fp32_flops_per_s: float
    source: str
    """`datasheet`, or `measured` by a large copy and a large matrix product."""

    def clips_per_s(self, bytes_per_clip: float, flops_per_clip: float) -> float:
        """Return how many clips a second the nearer ceiling allows."""
        return 1 / max(bytes_per_clip / self.memory_bytes_per_s, flops_per_clip / self.fp32_flops_per_s)


def limits_of(device: torch.device) -> Limits:
    """Return the ceilings of a device: as the maker states them where they are known here, or else measured."""
    known = _DATASHEET.get(device_name(device))
    if known:
        return Limits(memory_bytes_per_s=known[0], fp32_flops_per_s=known[1], source="datasheet")
    return measured_limits(device)


def measured_limits(device: torch.device) -> Limits:
    """Return what a copy far larger than the caches, and an fp32 matrix product, reach."""
    words, side = (1 << 28, 8192) if device.type == "cuda" else (1 << 25, 1024)
    source, factor = torch.ones(words, device=device), torch.rand(side, side, device=device)
    target, product = torch.empty_like(source), torch.empty_like(factor)
    copy_s = min(done_s(lambda: target.copy_(source), device) for _ in range(_ROUNDS))
    product_s = min(done_s(lambda: torch.mm(factor, factor, out=product), device) for _ in range(_ROUNDS))
    return Limits(
        memory_bytes_per_s=2 * source.nbytes / copy_s, fp32_flops_per_s=2 * side**3 / product_s, source="measured"
    )


def device_name(device: torch.device) -> str:
    """Return what the maker calls the device; for a CPU only that it is one, and how many threads are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def done_s(run: Callable[[], object], device: torch.device) -> float:
    """Return how long `run` takes until all that it queues on the device is done."""
    wait_for(device)
    started_s = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - started_s


def wait_for(device: torch.device) -> None:
    """Wait until everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
