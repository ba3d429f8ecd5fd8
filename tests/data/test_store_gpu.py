"""Stores of a CUDA device hold and hand out what those of a CPU do: `pytest -m gpu`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from opening import LONGEST, everything, flip_a_sample, open_split

from kws_dist.data.clip_reader import ClipPolicy
from kws_dist.data.store import DeviceStore, HostStore, Store, open_store
from kws_dist.shards.read import open_dataset

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

each_store = pytest.mark.parametrize("kind", [DeviceStore, HostStore])


def on_gpu(root: Path, kind: type[DeviceStore | HostStore], **policy: str) -> Store:
    rows = open_dataset(root).rows("train")
    return kind(rows, ClipPolicy(clip_samples=LONGEST, **policy), torch.device("cuda"))  # type: ignore[arg-type]


@each_store
def test_rows_on_the_gpu_are_those_on_the_cpu(tiny_dataset: Path, kind: type[DeviceStore | HostStore]) -> None:
    number = np.random.default_rng(0).integers(0, 21, 1000)
    gathered = on_gpu(tiny_dataset, kind).gather(number)
    assert gathered.is_cuda
    assert torch.equal(gathered.cpu(), open_split(tiny_dataset, "device").gather(number))


def test_clip_numbers_on_the_gpu_are_taken_without_the_host(tiny_dataset: Path) -> None:
    store, number = on_gpu(tiny_dataset, DeviceStore), torch.tensor([20, 0, 20], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        gathered = store.gather(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(gathered.cpu(), open_split(tiny_dataset, "device").gather(np.array([20, 0, 20])))


def test_no_batch_is_overwritten_while_it_is_copied(tiny_dataset: Path) -> None:
    """Many batches are asked for while the device has other things to do, so that all buffers are waited for."""
    store, rng = on_gpu(tiny_dataset, HostStore), np.random.default_rng(0)
    batches = [rng.integers(0, 21, 5000) for _ in range(40)]
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        busy = busy @ busy
    gathered = [store.gather(number) for number in batches]
    cpu = open_split(tiny_dataset, "device")
    for number, pcm in zip(batches, gathered, strict=True):
        assert torch.equal(pcm.cpu(), cpu.gather(number))


@each_store
def test_damaged_clips_are_left_out_on_the_gpu(
    tiny_dataset: Path, tmp_path: Path, kind: type[DeviceStore | HostStore]
) -> None:
    copy = Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))
    flip_a_sample(open_dataset(copy).rows("train"), 4)
    store = on_gpu(copy, kind, on_bad_clip="skip")
    assert len(store.skipped_keys) == 1
    assert torch.equal(everything(store).cpu(), everything(open_split(copy, "device", on_bad_clip="skip")))


def test_auto_asks_the_gpu_how_much_is_free(tiny_dataset: Path) -> None:
    rows = open_dataset(tiny_dataset).rows("train")
    store = open_store(rows, ClipPolicy(clip_samples=LONGEST), residency="auto", device=torch.device("cuda"))
    assert isinstance(store, DeviceStore)
