"""Evaluation on a GPU: the worst clips are found there, and nothing waits for it before the end."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kws_dist.evaluation.evaluate import _sent
from kws_dist.evaluation.worst import WorstClips

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def _syncs_are_errors() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_syncs_are_errors")
def test_clips_are_kept_without_waiting_for_the_device_and_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 3, generator=generator)
    labels = torch.randint(3, (64,), generator=generator)
    losses = F.cross_entropy(logits, labels, reduction="none")
    found = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        columns = [tensor.pin_memory().to(device, non_blocking=True) for tensor in (losses, logits, labels >= 0)]
        kept = WorstClips(5, device)
        for first in range(0, 64, 16):
            rows = slice(first, first + 16)
            kept.add(_sent(np.arange(64)[rows], device), *(column[rows] for column in columns))
        found.append(kept)
    torch.cuda.set_sync_debug_mode("default")
    on_cpu, on_gpu = (kept.clips() for kept in found)
    assert [one.clip for one in on_gpu] == [one.clip for one in on_cpu]
    assert [one.loss for one in on_gpu] == [one.loss for one in on_cpu]
