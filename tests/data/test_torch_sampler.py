"""The sampler in somebody else's trainer: torch's own `DataLoader`."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kws_dist.data.sampler import ClassBalancedDistributedSampler
from kws_dist.errors import UsageError

LABELS = np.repeat(np.arange(4), (30, 50, 20, 61))


def sampler(**changed: object) -> ClassBalancedDistributedSampler:
    return ClassBalancedDistributedSampler(LABELS, **({"global_batch": 24, "seed": 5} | changed))  # type: ignore[arg-type]


def loader(one: ClassBalancedDistributedSampler, workers: int = 0) -> DataLoader[tuple[torch.Tensor, ...]]:
    clips = TensorDataset(torch.arange(len(LABELS)), torch.from_numpy(LABELS))
    return DataLoader(clips, batch_size=one.slice.rows, sampler=one, num_workers=workers)


def clips_of(one: ClassBalancedDistributedSampler, workers: int = 0) -> list[list[int]]:
    return [clips.tolist() for clips, _ in loader(one, workers)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_delivers_the_draws_of_each_epoch_in_turn(workers: int) -> None:
    one = sampler()
    assert len(one) == len(loader(one)) * 24
    for epoch in range(3):
        t = np.arange(epoch * len(one), (epoch + 1) * len(one))
        assert np.concatenate(clips_of(one, workers)).tolist() == one.draws(t).clip.tolist()


def test_every_batch_is_balanced() -> None:
    for _, labels in loader(sampler()):
        assert np.bincount(labels).tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (2, 1), (3, 2), (4, 3)])
def test_the_loaders_of_all_ranks_joined_are_that_of_one(world: int, accumulate: int) -> None:
    ranks = [clips_of(sampler(rank=rank, world=world, accumulate=accumulate)) for rank in range(world)]
    joined = [clip for micro_batches in zip(*ranks, strict=True) for batch in micro_batches for clip in batch]
    assert joined == np.concatenate(clips_of(sampler())).tolist()


def test_set_epoch_goes_anywhere_and_back() -> None:
    one = sampler()
    first, second = clips_of(one), clips_of(one)
    one.set_epoch(1)
    assert clips_of(one) == second
    one.set_epoch(0)
    assert clips_of(one) == first != second


@pytest.mark.parametrize("world", [1, 2])
def test_a_state_goes_on_where_it_was_taken_on_any_number_of_ranks(world: int) -> None:
    one = sampler()
    whole = clips_of(one)
    one.set_epoch(0)
    batches = iter(loader(one))
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(one.state_dict()))
    assert state["step"] == 3
    resumed = [sampler(rank=rank, world=world) for rank in range(world)]
    for rank in resumed:
        rank.load_state_dict(state)
    batches_of = zip(*(clips_of(rank) for rank in resumed), strict=True)
    rest = [[clip for part in parts for clip in part] for parts in batches_of]
    assert rest == whole[3:]


def test_a_loader_that_ran_ahead_is_told_how_far_training_really_is() -> None:
    one = sampler()
    whole = clips_of(one)
    one.set_epoch(0)
    batches = iter(loader(one, workers=2))  # has asked for more than it hands out
    next(batches)
    state = one.state_dict(step=1)
    del batches
    other = sampler()
    other.load_state_dict(state)
    assert clips_of(other) == whole[1:]


@pytest.mark.parametrize("change", [{"seed": 6}, {"balance": 0.5}, {"global_batch": 48}, {"weights": (1, 1, 2, 1)}])
def test_a_state_of_other_draws_is_refused_by_name(change: dict[str, object]) -> None:
    """P9."""
    with pytest.raises(UsageError, match=next(iter(change))):
        sampler(**change).load_state_dict(sampler().state_dict())


def test_the_epoch_that_a_state_is_from_goes_on_where_it_was() -> None:
    """As in a loop that sets the epoch each time."""
    one = sampler()
    whole = clips_of(one)
    other = sampler()
    other.load_state_dict(one.state_dict(step=2))
    other.set_epoch(0)
    assert clips_of(other) == whole[2:]
    other.set_epoch(0)
    assert clips_of(other) == whole
    other.load_state_dict(one.state_dict(step=2))
    other.set_epoch(1)
    assert clips_of(other) == clips_of(one)


def test_a_state_of_other_clips_is_refused() -> None:
    other = ClassBalancedDistributedSampler(LABELS[::-1].copy(), global_batch=24, seed=5)
    with pytest.raises(UsageError, match="other clips"):
        other.load_state_dict(sampler().state_dict())


@pytest.mark.parametrize("labels", [[0.5, 1.0], [-1, 0], [[0, 1]], ["yes"]])
def test_labels_that_are_no_classes_are_refused(labels: list[object]) -> None:
    with pytest.raises(UsageError, match="whole numbers"):
        ClassBalancedDistributedSampler(np.array(labels), global_batch=1)


@pytest.mark.parametrize("state", [{}, {"step": 3}, None, {"step": -1}, {"step": 1.5}])
def test_what_is_no_state_is_refused(state: dict[str, object] | None) -> None:
    state = sampler().state_dict() | state if state and "step" in state and state["step"] != 3 else state
    with pytest.raises(UsageError, match="state"):
        sampler().load_state_dict(state)  # type: ignore[arg-type]
