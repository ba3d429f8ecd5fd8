"""How much memory a device has held at its fullest: a GPU's tensors, or on a CPU all of this process."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5); it takes Linux 4.0, and a container may forbid it


def peak_bytes(device: torch.device) -> int:
    """Return the largest memory since `reset_peak`, or of this process's life where no peak can be reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        of_status = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(of_status["VmHWM"].removesuffix("kB")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def reset_peak(device: torch.device) -> None:
    """Let the peak be what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)


def limit_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU; a CPU has no one limit: the machine's, its swap, a container's."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
