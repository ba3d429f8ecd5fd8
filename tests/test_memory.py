"""How much memory was held is measured, between one look and the next."""

import sys

import pytest
import torch

from kws_dist import memory

MIB = 2**20
CPU = torch.device("cpu")


def test_the_peak_of_a_cpu_is_in_bytes_and_holds_what_was_freed_again() -> None:
    memory.reset_peak(CPU)
    before = memory.peak_bytes(CPU)
    torch.ones(512 * MIB // 4)  # freed at once
    assert 500 * MIB < memory.peak_bytes(CPU) - before < 600 * MIB
    assert memory.limit_bytes(CPU) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak is that of the process's life")
def test_the_peak_begins_anew_when_reset() -> None:
    torch.ones(512 * MIB // 4)
    before = memory.peak_bytes(CPU)
    memory.reset_peak(CPU)
    assert memory.peak_bytes(CPU) < before - 400 * MIB


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_its_tensors() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    memory.reset_peak(device)
    before = memory.peak_bytes(device)
    held = torch.ones(64 * MIB // 4, device=device)
    assert memory.peak_bytes(device) - before >= 64 * MIB
    del held
    memory.reset_peak(device)
    assert memory.peak_bytes(device) - before < 64 * MIB
    assert memory.peak_bytes(device) < (memory.limit_bytes(device) or 0)
