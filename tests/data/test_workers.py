"""Device workers: the same batches on any number of ranks, inline or ahead in a thread, and nothing left behind."""

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kws_dist.data.drawn import AT_ONCE_CPU
from kws_dist.data.sampler import BatchSlice, ExactlyOnceSampler, Ints, Sampler, build_sampler
from kws_dist.data.store import ClipPolicy, Store, open_store, read_noise
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.errors import DataError
from kws_dist.frontend.features import LogMel
from kws_dist.frontend.masks import SpecAugment
from kws_dist.frontend.mix import Mix
from kws_dist.frontend.noise import BackgroundNoise, DrawnSilence, NoiseBank
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.frontend.shift import TimeShift
from kws_dist.shards.read import open_dataset

CPU = torch.device("cpu")
CLIP_SAMPLES = 1600
BATCH = 48  # more than the features take at once on a CPU
WAVEFORMS = FrontEnd(nn.Identity())
splits = pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 2), (4, 2)])


@pytest.fixture(scope="module")
def store(tiny_dataset: Path) -> Store:
    rows = open_dataset(tiny_dataset).rows("train")
    return open_store(rows, ClipPolicy(clip_samples=CLIP_SAMPLES), residency="device", device=CPU)


@pytest.fixture(scope="module")
def noise(tiny_dataset: Path) -> list[Tensor]:
    return read_noise(open_dataset(tiny_dataset).rows("noise"))[0]


def front_end(noise: list[Tensor], *, waveform: bool = False) -> FrontEnd:
    """The front end of a training, all augmentation on; `waveform` leaves the features out."""
    bank = NoiseBank(noise, clip_samples=CLIP_SAMPLES)
    return FrontEnd(
        nn.Identity() if waveform else LogMel(),
        wave_augment=(
            TimeShift(seed=3, max_samples=400, probability=0.8),
            DrawnSilence(bank, seed=3, silence_label=1, heard=range(CLIP_SAMPLES)),
            BackgroundNoise(bank, seed=3, max_amplitude=0.1, probability=0.8),
        ),
        feature_augment=()
        if waveform
        else (SpecAugment(seed=3, time_masks=2, max_time_frames=3, frequency_masks=2, max_frequency_bins=7),),
    )


def balanced(store: Store, global_batch: int = BATCH) -> Sampler:
    return build_sampler(store.rows.label, seed=3, balance=1.0, global_batch=global_batch)


def worker(
    store: Store,
    sampler: Sampler,
    front: FrontEnd,
    *,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    ahead: int = 0,
    global_batch: int = BATCH,
) -> DeviceWorker:
    cut = BatchSlice(global_batch=global_batch, accumulate=accumulate, rank=rank, world=world)
    return DeviceWorker(store, sampler, front, cut, CPU, ahead=ahead)


def global_batches(
    store: Store, sampler: Sampler, front: FrontEnd, world: int, accumulate: int, steps: int
) -> list[Tensor]:
    """Let each rank make its batches on its own; join them as the global sequence, one tensor a step."""
    ranks = [worker(store, sampler, front, rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    made = [list(one.batches(0, steps)) for one in ranks]
    order = [(micro, rank) for micro in range(accumulate) for rank in range(world)]
    return [
        torch.cat([made[rank][step * accumulate + micro].features for micro, rank in order]) for step in range(steps)
    ]


@splits
def test_augmented_waveforms_have_the_same_bits_on_any_number_of_ranks(
    store: Store, noise: list[Tensor], world: int, accumulate: int
) -> None:
    front = front_end(noise, waveform=True)
    whole = [batch.features for batch in worker(store, balanced(store), front).batches(0, 3)]
    joined = global_batches(store, balanced(store), front, world, accumulate, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, joined, strict=True))
    assert not torch.equal(whole[0], whole[1])


@splits
def test_features_are_the_same_on_any_number_of_ranks(
    store: Store, noise: list[Tensor], world: int, accumulate: int
) -> None:
    front = front_end(noise)
    whole = [batch.features for batch in worker(store, balanced(store), front).batches(0, 3)]
    joined = global_batches(store, balanced(store), front, world, accumulate, 3)
    for a, b in zip(whole, joined, strict=True):
        assert a.shape == (BATCH, 1, 40, CLIP_SAMPLES // 160 + 1)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_same_clip_of_silence_sounds_different_in_every_draw(store: Store, noise: list[Tensor]) -> None:
    """Word 1 stands for silence; without augmentation its clips are always as they are stored."""
    bank = NoiseBank(noise, clip_samples=CLIP_SAMPLES)
    silence = DrawnSilence(bank, seed=3, silence_label=1, heard=range(CLIP_SAMPLES))
    one = worker(store, balanced(store), FrontEnd(nn.Identity(), wave_augment=(silence,)))
    heard = dict[tuple[int, int], set[bytes]]()
    for batch in one.batches(0, 3):
        for clip, label, wave in zip(batch.draws.clip.tolist(), batch.labels.tolist(), batch.features, strict=True):
            heard.setdefault((label, clip), set()).add(wave.numpy().tobytes())
    drawn = 3 * BATCH // 3
    assert sum(len(sounds) for (label, _), sounds in heard.items() if label == 1) == drawn
    assert {len(sounds) for (label, _), sounds in heard.items() if label != 1} == {1}


def assert_same(a: Batch, b: Batch) -> None:
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.weights, b.weights)
    np.testing.assert_array_equal(a.draws.t, b.draws.t)
    np.testing.assert_array_equal(a.draws.clip, b.draws.clip)


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_batches_made_ahead_in_a_thread_are_those_made_inline(store: Store, noise: list[Tensor], ahead: int) -> None:
    front = front_end(noise)
    inline = list(worker(store, balanced(store), front, accumulate=2).batches(5, 9))
    threaded = list(worker(store, balanced(store), front, accumulate=2, ahead=ahead).batches(5, 9))
    assert len(inline) == len(threaded) == 8
    for a, b in zip(inline, threaded, strict=True):
        assert_same(a, b)


def test_starting_at_a_step_gives_the_batches_of_a_run_that_came_there(store: Store, noise: list[Tensor]) -> None:
    front = front_end(noise)
    run = list(worker(store, balanced(store), front).batches(0, 6))
    resumed = list(worker(store, balanced(store), front, ahead=2).batches(4, 6))
    for a, b in zip(run[4:], resumed, strict=True):
        assert_same(a, b)


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("device-worker")]


def test_a_loop_that_ends_early_leaves_no_thread(store: Store, noise: list[Tensor]) -> None:
    batches = worker(store, balanced(store), front_end(noise), ahead=3).batches(0, 1000)
    assert worker_threads() == []
    next(batches)
    next(batches)
    assert len(worker_threads()) == 1
    batches.close()
    assert worker_threads() == []


def test_a_loop_that_ends_leaves_no_thread(store: Store, noise: list[Tensor]) -> None:
    assert len(list(worker(store, balanced(store), front_end(noise), ahead=3).batches(0, 5))) == 5
    assert worker_threads() == []


def test_no_steps_are_no_batches(store: Store, noise: list[Tensor]) -> None:
    for ahead in (0, 3):
        assert list(worker(store, balanced(store), front_end(noise), ahead=ahead).batches(7, 7)) == []


class StoreBehind:
    """A store that notes what it is asked for, and then hands on what another one has."""

    def __init__(self, store: Store) -> None:
        self.store, self.rows, self.skipped_keys, self.on_device = store, store.rows, store.skipped_keys, False
        self.asked: list[str] = []

    def at_step(self, step: int) -> None:
        self.asked.append(f"step {step}")

    def gather(self, clip: Ints | Tensor) -> Tensor:
        self.asked.append(f"{len(clip)} clips")
        return self.store.gather(clip)


class DamagedAfter(StoreBehind):
    """A store in which a later batch cannot be read."""

    def __init__(self, store: Store, good: int) -> None:
        super().__init__(store)
        self.good = good

    def gather(self, clip: Ints | Tensor) -> Tensor:
        if len(self.asked) == self.good:
            raise DataError("this clip is damaged")
        return super().gather(clip)

    def at_step(self, step: int) -> None:
        pass


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_an_error_surfaces_with_its_batch_and_not_before(store: Store, ahead: int) -> None:
    one = worker(DamagedAfter(store, good=2), balanced(store), WAVEFORMS, ahead=ahead)
    batches = one.batches(0, 5)
    assert [next(batches).draws.t[0] for _ in range(2)] == [0, BATCH]
    with pytest.raises(DataError, match="this clip is damaged"):
        next(batches)
    assert worker_threads() == []


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_store_hears_of_each_step_before_its_batches_are_gathered(store: Store, ahead: int) -> None:
    noting = StoreBehind(store)
    list(worker(noting, balanced(store), WAVEFORMS, accumulate=2, ahead=ahead).batches(4, 7))
    half = f"{BATCH // 2} clips"
    assert noting.asked == ["step 4", half, half, "step 5", half, half, "step 6", half, half]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_nothing_is_gathered_for_longer_than_the_loop_goes_on(store: Store, ahead: int) -> None:
    """At most as many batches as are to be ready are made in vain."""
    noting = StoreBehind(store)
    batches = worker(noting, balanced(store), WAVEFORMS, ahead=ahead).batches(0, 1000)
    for _ in range(3):
        next(batches)
    batches.close()
    gathered = noting.asked.count(f"{BATCH} clips")
    assert 3 <= gathered <= 3 + ahead
    assert worker_threads() == []
    assert noting.asked.count(f"{BATCH} clips") == gathered


def test_draws_are_the_same_wherever_the_worker_begins(store: Store) -> None:
    """Draws are made many at a time, and not the same ones together when it begins elsewhere."""
    run = list(worker(store, balanced(store), WAVEFORMS).batches(0, 100))
    assert 50 * BATCH < AT_ONCE_CPU < 95 * BATCH
    for a, b in zip(run[50:], worker(store, balanced(store), WAVEFORMS).batches(50, 100), strict=True):
        assert_same(a, b)


def mixing(noise: list[Tensor]) -> FrontEnd:
    """A front end that shifts, adds noise, and mixes half of the clips with another."""
    bank = NoiseBank(noise, clip_samples=CLIP_SAMPLES)
    return FrontEnd(
        nn.Identity(),
        wave_augment=(
            TimeShift(seed=3, max_samples=400, probability=0.8),
            Mix(seed=3, clip_samples=CLIP_SAMPLES, mixup_probability=0.5),
            BackgroundNoise(bank, seed=3, max_amplitude=0.1, probability=0.8),
        ),
    )


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_mixed_batch_says_what_was_mixed_in_and_how_much(store: Store, ahead: int) -> None:
    mix = Mix(seed=3, clip_samples=CLIP_SAMPLES, mixup_probability=0.5)
    sampler, front = balanced(store), FrontEnd(nn.Identity(), wave_augment=(mix,))
    for batch in worker(store, sampler, front, ahead=ahead).batches(0, 3):
        partner, share = sampler.partners(batch.draws.t), batch.partner_share
        assert share is not None
        assert 0 < (share > 0).sum() < BATCH
        assert torch.equal(share, mix.shares(torch.from_numpy(batch.draws.t)))
        assert batch.partner_labels is not None
        assert batch.partner_labels.tolist() == store.rows.label[partner].tolist()
        wave, partner_wave = (store.gather(clip).float() / 2**15 for clip in (batch.draws.clip, partner))
        torch.testing.assert_close(batch.features, torch.lerp(wave, partner_wave, share[:, None]))


def test_a_batch_that_is_not_mixed_has_no_partners(store: Store) -> None:
    batch = next(worker(store, balanced(store), WAVEFORMS).batches(0, 1))
    assert batch.partner_labels is None
    assert batch.partner_share is None


@splits
def test_mixed_waveforms_have_the_same_bits_on_any_number_of_ranks(
    store: Store, noise: list[Tensor], world: int, accumulate: int
) -> None:
    front = mixing(noise)
    whole = [batch.features for batch in worker(store, balanced(store), front).batches(0, 2)]
    joined = global_batches(store, balanced(store), front, world, accumulate, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, joined, strict=True))


@splits
def test_labels_are_those_of_the_words_drawn(store: Store, noise: list[Tensor], world: int, accumulate: int) -> None:
    sampler, front = balanced(store), front_end(noise, waveform=True)
    for rank in range(world):
        for batch in worker(store, sampler, front, rank=rank, world=world, accumulate=accumulate).batches(0, 2):
            assert batch.labels.tolist() == [store.rows.label[clip] for clip in batch.draws.clip]
            assert batch.weights.tolist() == [1.0] * len(batch.labels)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 2)])
def test_an_exactly_once_epoch_delivers_every_clip_and_its_label_once(
    store: Store, world: int, accumulate: int
) -> None:
    sampler = ExactlyOnceSampler(len(store.rows), seed=1, global_batch=16)
    clips, seen = store.gather(np.arange(len(store.rows))).float() / 2**15, []
    for rank in range(world):
        one = worker(store, sampler, WAVEFORMS, rank=rank, world=world, accumulate=accumulate, global_batch=16)
        batches = list(one.batches(0, sampler.steps_per_epoch))
        assert {len(batch.features) for batch in batches} == {16 // (world * accumulate)}
        for batch in batches:
            real = batch.weights.bool()
            number = torch.from_numpy(batch.draws.clip)[real]
            assert torch.equal(batch.features[real], clips[number])
            assert batch.labels[real].tolist() == store.rows.label[number.numpy()].tolist()
            seen += number.tolist()
    assert sorted(seen) == list(range(len(store.rows)))


def work() -> None:
    """Keep a core busy for some milliseconds, without holding up the other threads of Python."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000)


class SlowStore(StoreBehind):
    """A store that has to work for each batch."""

    def gather(self, clip: Ints | Tensor) -> Tensor:
        work()
        return super().gather(clip)


def waited_share(one: DeviceWorker, use: Callable[[], None]) -> float:
    """Take some batches, and return for which share of the time data were waited for."""
    started_s = time.perf_counter()
    for _ in one.batches(0, 10):
        use()
    return one.wait_s / (time.perf_counter() - started_s)


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_slow_store_shows_in_the_time_waited_for_data(store: Store, ahead: int) -> None:
    one = worker(SlowStore(store), balanced(store), WAVEFORMS, ahead=ahead)
    assert one.wait_s == 0
    assert waited_share(one, lambda: None) > 0.5


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_fast_store_lets_nobody_wait(store: Store, ahead: int) -> None:
    assert waited_share(worker(store, balanced(store), WAVEFORMS, ahead=ahead), work) < 0.25


class SlowFeatures(nn.Module):
    """Features that take their time."""

    def forward(self, wave: Tensor) -> Tensor:
        work()
        return wave


def test_making_features_inline_is_not_waiting_for_data(store: Store) -> None:
    assert waited_share(worker(store, balanced(store), FrontEnd(SlowFeatures())), lambda: None) < 0.25
