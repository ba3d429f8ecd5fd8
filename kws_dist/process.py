"""Settings of the whole process that make a CPU fast."""

import ctypes
import os
import platform

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEEP_BYTES = 2**31 - 1


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next tensor instead of handing it back to the system.

    Large tensors are freed and taken again at every step. Handed back, each page of them is faulted in and zeroed
    anew: measured, the log-mel of 96 clips at once took 1.8 times as long. Where tensors are small enough for the
    cache, as in BC-ResNet-1 and the chunked front end, it makes no difference. Does nothing on other C libraries.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def use_cores() -> None:
    """Give this process its share of the machine's cores.

    `accelerate launch` sets OMP_NUM_THREADS to 1 unless told otherwise, which would leave the other cores idle.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and accelerate count them
    torch.set_num_threads(max(len(os.sched_getaffinity(0)) // processes, 1))


def has_fast_bf16() -> bool:
    """Return whether this CPU multiplies bf16 by instructions of its own (AVX-512 BF16 or AMX); others emulate it."""
    # Private, but in torch since 2.6 and without a public counterpart before 2.10.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
