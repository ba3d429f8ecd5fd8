"""The worker on a GPU: batches stay as they are while they are read, nobody waits, and no memory is taken."""

import hashlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from kws_dist import models
from kws_dist.config import TrainConfig
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.pipeline_stages import Pipeline, SyntheticStore
from kws_dist.training.optim import build_optimizer
from kws_dist.training.step import TrainStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
BATCH = 256
TEN_MS = 20_000_000  # cycles, at about 2 GHz


class Behind:
    """A store that does something before each batch is gathered; it is asked as one on the host is, or on the GPU."""

    def __init__(
        self, store: SyntheticStore, do: Callable[[], object] = lambda: None, *, on_device: bool = True
    ) -> None:
        self.store, self.rows, self.skipped_keys = store, store.rows, store.skipped_keys
        self.do, self.on_device = do, on_device

    def at_step(self, step: int) -> None:
        pass

    def gather(self, clip: np.ndarray | Tensor) -> Tensor:
        self.do()
        number = torch.as_tensor(clip)
        return self.store.gather(number if number.is_cuda else number.pin_memory().to(CUDA, non_blocking=True))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.build(CUDA, clips=4_000, batch=BATCH)


def worker(
    pipeline: Pipeline,
    do: Callable[[], object] = lambda: None,
    *,
    ahead: int | None = None,
    on_device: bool = True,
    accumulate: int = 1,
) -> DeviceWorker:
    store = Behind(pipeline.store, do, on_device=on_device)
    cut = BatchSlice(global_batch=BATCH, accumulate=accumulate)
    return DeviceWorker(store, pipeline.sampler, pipeline.front_end, cut, CUDA, ahead=ahead)


def copy_of(batch: Batch) -> tuple[Tensor, ...]:
    return (
        batch.features.clone(),
        batch.labels.clone(),
        batch.weights.clone(),
        torch.as_tensor(batch.draws.clip).clone(),
    )


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_a_step_that_comes_to_its_batch_late_still_reads_that_batch(pipeline: Pipeline, ahead: int) -> None:
    """The host and the worker are far ahead by then, and have let go of the batch."""
    inline = [copy_of(batch) for batch in worker(pipeline, ahead=0).batches(0, 20)]
    read = []
    for batch in worker(pipeline, ahead=ahead).batches(0, 20):
        torch.cuda._sleep(TEN_MS)
        read.append(copy_of(batch))
        del batch
    for a, b in zip(inline, read, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_that_are_held_stay_as_they_are(pipeline: Pipeline) -> None:
    inline = [copy_of(batch) for batch in worker(pipeline, ahead=0).batches(0, 20)]
    held = list(worker(pipeline, ahead=2).batches(0, 20))
    torch.cuda.synchronize()
    for a, b in zip(inline, held, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, copy_of(b), strict=True))


def test_a_second_loop_does_not_disturb_what_the_first_one_left(pipeline: Pipeline) -> None:
    one = worker(pipeline, ahead=2)
    expected = copy_of(next(worker(pipeline, ahead=0).batches(0, 1)))
    batch = next(one.batches(0, 9))
    torch.cuda._sleep(TEN_MS)
    read = copy_of(batch)
    del batch
    for other in one.batches(20, 30):
        del other
    assert all(torch.equal(x, y) for x, y in zip(expected, read, strict=True))


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16" if torch.cuda.is_bf16_supported() else "fp16")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("on_device", [True, False], ids=["device", "host"])
def test_the_host_waits_for_nothing_from_step_to_step(
    pipeline: Pipeline, accelerator: Accelerator, on_device: bool
) -> None:
    """Neither the thread that trains nor the one that makes batches: torch looks at the whole process."""
    model = models.build("bcresnet", num_classes=35).to(CUDA)
    optimizer = build_optimizer(model, TrainConfig())
    step = TrainStep(model, optimizer, accelerator, seed=0, accumulate=2, clip_norm=1.0)
    batches = worker(pipeline, on_device=on_device, accumulate=2).batches(0, 12)  # all of them are drawn at once
    for number in range(2):
        step(batches, step=number, real_rows=BATCH, rate=0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(2, 12):
            step(batches, step=number, real_rows=BATCH, rate=0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.read(stop=False).skipped_steps == 0


@pytest.mark.parametrize("on_device", [True, False], ids=["device", "host"])
def test_two_hundred_batches_take_no_memory(pipeline: Pipeline, on_device: bool) -> None:
    batches = worker(pipeline, on_device=on_device).batches(0, 250)
    work = Work()
    for _ in range(50):
        work(next(batches))
    torch.cuda.synchronize()
    before, reserved_bytes = torch.cuda.memory_stats(), torch.cuda.memory_reserved()
    for _ in range(200):
        work(next(batches))
    torch.cuda.synchronize()
    after = torch.cuda.memory_stats()
    assert after["num_alloc_retries"] == before["num_alloc_retries"]
    assert after["num_device_alloc"] - before["num_device_alloc"] < 5
    assert torch.cuda.memory_reserved() <= 1.05 * reserved_bytes


class Work:
    """What keeps a GPU busy for some milliseconds, and reads the batch."""

    def __init__(self) -> None:
        self.factor = torch.randn(4096, 4096, device=CUDA)

    def __call__(self, batch: Batch) -> None:
        for _ in range(4):
            self.factor @ self.factor
        batch.features.sum()


def nothing(batch: Batch) -> None:
    pass


def waited_share(one: DeviceWorker, use: Callable[[Batch], None]) -> float:
    """Take some batches, and return for which share of the time the GPU waited for them, once under way."""
    batches = one.batches(0, 40)
    for _ in range(8):
        use(next(batches))
    torch.cuda.synchronize()
    started_s, before_s = time.perf_counter(), one.wait_s
    for batch in batches:
        use(batch)
    torch.cuda.synchronize()
    return (one.wait_s - before_s) / (time.perf_counter() - started_s)


def test_a_heavy_step_does_not_wait_for_data(pipeline: Pipeline) -> None:
    assert waited_share(worker(pipeline), Work()) < 0.01


def work_on_the_host() -> None:
    """Keep a core busy for some milliseconds, without holding up the other threads of Python."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000)


def test_a_host_that_waits_while_the_gpu_is_busy_is_not_counted(pipeline: Pipeline) -> None:
    assert waited_share(worker(pipeline, work_on_the_host), Work()) < 0.03


def test_a_store_that_is_slow_on_the_gpu_shows(pipeline: Pipeline) -> None:
    assert waited_share(worker(pipeline, lambda: torch.cuda._sleep(TEN_MS)), nothing) > 0.5


def test_a_store_that_is_slow_on_the_host_shows(pipeline: Pipeline) -> None:
    assert waited_share(worker(pipeline, lambda: [work_on_the_host() for _ in range(3)]), nothing) > 0.5
