"""Draws: which clip is drawn when. The properties P1 to P9 that every sampler of this project keeps."""

import json
import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kws_dist.data.sampler import (
    BatchSlice,
    ClassBalancedDistributedSampler,
    Draws,
    ExactlyOnceSampler,
    Sampler,
    build_sampler,
)
from kws_dist.errors import UsageError

Ints = NDArray[np.int64]

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**40)
balances = st.sampled_from([1e-3, 0.3, 0.5, 0.9, 1.0])
class_counts = st.lists(st.integers(1, 40), min_size=1, max_size=8)
splits = st.sampled_from([(w, a) for w in (1, 2, 3, 4, 7) for a in (1, 2, 3)])


def labels_of(counts: list[int]) -> Ints:
    """Labels in key order, as they lie in a dataset: mixed, here by a fixed shuffle."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@st.composite
def samplers(draw: st.DrawFn) -> tuple[Sampler, Ints, int]:
    """A sampler of either kind, its labels, and a global batch that divides by every split of `splits`."""
    labels = labels_of(draw(class_counts))
    batch = 504 * draw(st.integers(1, 2))
    balance = draw(st.one_of(balances, st.just(0.0)))
    return build_sampler(labels, seed=draw(seeds), balance=balance, global_batch=batch), labels, batch


def slices(global_batch: int, world: int, accumulate: int) -> list[BatchSlice]:
    return [
        BatchSlice(global_batch=global_batch, accumulate=accumulate, rank=rank, world=world) for rank in range(world)
    ]


def joined(sampler: Sampler, ranks: list[BatchSlice], step: int) -> Draws:
    """Draw each rank's micro-batches on their own and join them in the order of the global sequence."""
    parts = [sampler.draws(one.draw_numbers(step, micro)) for micro in range(ranks[0].accumulate) for one in ranks]
    return Draws(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("t", "clip", "weight")))


def assert_same(a: Draws, b: Draws) -> None:
    np.testing.assert_array_equal(a.t, b.t)
    np.testing.assert_array_equal(a.clip, b.clip)
    np.testing.assert_array_equal(a.weight, b.weight)


@given(made=samplers(), split=splits)
@quick
def test_every_rank_does_the_same_number_of_micro_batches_of_the_same_size(
    made: tuple[Sampler, Ints, int], split: tuple[int, int]
) -> None:
    """P1."""
    sampler, labels, batch = made
    world, accumulate = split
    assert sampler.steps_per_epoch == math.ceil(len(labels) / batch)
    for one in slices(batch, world, accumulate):
        for step in (0, sampler.steps_per_epoch - 1):
            sizes = [len(sampler.draws(one.draw_numbers(step, micro)).clip) for micro in range(accumulate)]
            assert sizes == [batch // (world * accumulate)] * accumulate


@given(made=samplers(), split=splits, step=st.integers(0, 10**9))
@quick
def test_the_slices_of_a_step_joined_are_one_sequence_whatever_the_ranks_and_accumulation(
    made: tuple[Sampler, Ints, int], split: tuple[int, int], step: int
) -> None:
    """P2 and P3."""
    sampler, _, batch = made
    together = joined(sampler, slices(batch, *split), step)
    np.testing.assert_array_equal(together.t, np.arange(step * batch, (step + 1) * batch))
    assert_same(together, sampler.draws(together.t))


@given(made=samplers(), start=st.integers(0, 10**12))
@quick
def test_a_draw_alone_in_any_order_and_at_any_distance_is_the_draw_in_a_batch(
    made: tuple[Sampler, Ints, int], start: int
) -> None:
    """P4: seeking is free, for there is nothing to seek through."""
    sampler, labels, _ = made
    t = np.arange(start, start + 40)
    batch = sampler.draws(t)
    assert ((batch.clip >= 0) & (batch.clip < len(labels))).all()
    backwards = sampler.draws(t[::-1].copy())
    assert_same(batch, Draws(backwards.t[::-1], backwards.clip[::-1], backwards.weight[::-1]))
    for i in (0, 17, 39):
        assert sampler.draws(t[i : i + 1]).clip[0] == batch.clip[i]


def bytes_held(sampler: Any) -> int:
    values = [value for name, value in vars(sampler).items() if name != "_tables"]
    return sampler._tables.nbytes + sum(getattr(value, "nbytes", sys.getsizeof(value)) for value in values)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_memory_is_one_array_as_long_as_the_labels_and_does_not_grow_with_draws(balance: float) -> None:
    """P5: besides that a block, and a few numbers for each class."""
    small, large = (
        ClassBalancedDistributedSampler(labels_of([n] * 5), seed=1, global_batch=100, balance=balance)
        for n in (3_000, 9_000)
    )
    assert bytes_held(large) - bytes_held(small) == 5 * 6_000 * 8
    assert bytes_held(small) < 5 * 3_000 * 8 + 20 * int(small.quota.sum()) + 5_000
    before = bytes_held(small)
    for start in (0, 10**6, 10**12):
        small.draws(np.arange(start, start + 100))
    assert bytes_held(small) == before
    assert bytes_held(ExactlyOnceSampler(10**9, seed=1, global_batch=100)) < 1000


@given(made=samplers(), start=st.integers(0, 10**12), count=st.integers(1, 200))
@quick
def test_draws_computed_by_torch_are_those_of_numpy(made: tuple[Sampler, Ints, int], start: int, count: int) -> None:
    sampler, _, _ = made
    t = np.arange(start, start + count)
    on_torch = sampler.draws(torch.from_numpy(t))
    assert_same(sampler.draws(t), Draws(on_torch.t.numpy(), on_torch.clip.numpy(), on_torch.weight.numpy()))
    np.testing.assert_array_equal(sampler.partners(t), sampler.partners(torch.from_numpy(t)).numpy())


def test_every_batch_holds_each_of_35_words_32_times() -> None:
    """P6, with the class counts of a set that is far from even."""
    labels = labels_of([50 + 13 * word for word in range(35)])
    sampler = build_sampler(labels, seed=3, balance=1.0, global_batch=1120)
    for step in (0, 1, 5, 10**6):
        drawn = labels[sampler.draws(np.arange(step * 1120, (step + 1) * 1120)).clip]
        assert np.bincount(drawn).tolist() == [32] * 35


@given(counts=class_counts, balance=balances, seed=seeds, block=st.integers(0, 10**9))
@quick
def test_every_block_holds_each_class_exactly_its_quota_of_times(
    counts: list[int], balance: float, seed: int, block: int
) -> None:
    """P6, for any balance."""
    labels = labels_of(counts)
    sampler = ClassBalancedDistributedSampler(labels, seed=seed, global_batch=1, balance=balance)
    length = int(sampler.quota.sum())
    drawn = labels[sampler.draws(np.arange(block * length, (block + 1) * length)).clip]
    np.testing.assert_array_equal(np.bincount(drawn, minlength=len(counts)), sampler.quota)


@given(counts=class_counts, balance=balances, seed=seeds, start=st.integers(0, 10**5), length=st.integers(1, 2000))
@quick
def test_within_a_class_the_visits_of_clips_differ_by_at_most_one(
    counts: list[int], balance: float, seed: int, start: int, length: int
) -> None:
    """P7, at any time and for any balance: from the first draw, and from the first draw of any pass."""
    labels = labels_of(counts)
    sampler = ClassBalancedDistributedSampler(labels, seed=seed, global_batch=1, balance=balance)
    visits = np.bincount(sampler.draws(np.arange(length)).clip, minlength=len(labels))
    drawn = sampler.draws(np.arange(start, start + length)).clip
    for word in range(len(counts)):
        assert np.ptp(visits[labels == word]) <= 1
        # In any stretch, a whole pass of the class holds each clip; what is left are an end and a beginning.
        assert np.ptp(np.bincount(drawn, minlength=len(labels))[labels == word]) <= 2


@given(counts=class_counts, seed=seeds, first_block=st.integers(0, 3))
@quick
def test_each_pass_over_a_class_holds_every_clip_once_in_an_order_of_its_own(
    counts: list[int], seed: int, first_block: int
) -> None:
    """P7: balanced, the draws of a class come one a block, so pass p is blocks p*n to (p+1)*n."""
    labels = labels_of(counts)
    sampler = build_sampler(labels, seed=seed, balance=1.0, global_batch=1)
    word = first_block % len(counts)
    clips, classes = counts[word], len(counts)
    passes = []
    for number in (first_block, first_block + 1):
        t = np.arange(number * clips * classes, (number + 1) * clips * classes)
        clip = sampler.draws(t).clip
        passes.append(clip[labels[clip] == word].tolist())
        assert sorted(passes[-1]) == np.flatnonzero(labels == word).tolist()
    if clips > 12:  # by chance, once in 12! times
        assert passes[0] != passes[1]


@given(clips=st.integers(1, 500), batch=st.integers(1, 60), split=splits, epoch=st.integers(0, 10**6), seed=seeds)
@quick
def test_exactly_once_draws_each_clip_once_an_epoch_on_any_number_of_ranks(
    clips: int, batch: int, split: tuple[int, int], epoch: int, seed: int
) -> None:
    world, accumulate = split
    batch *= world * accumulate
    for shuffle in (True, False):
        sampler = ExactlyOnceSampler(clips, seed=seed, global_batch=batch, shuffle=shuffle)
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        drawn = [joined(sampler, slices(batch, world, accumulate), step) for step in steps]
        real = np.concatenate([one.clip[one.weight == 1] for one in drawn])
        assert sorted(real.tolist()) == list(range(clips))
        assert [sampler.real_rows(step) for step in steps] == [int(one.weight.sum()) for one in drawn]
        assert sum(map(sampler.real_rows, steps)) == clips
        assert all(set(one.weight.tolist()) <= {0.0, 1.0} for one in drawn)
        assert shuffle or real.tolist() == list(range(clips))


def test_without_shuffling_clips_come_in_the_order_that_is_asked_for() -> None:
    order = np.array([3, 0, 4, 1, 2])
    sampler = ExactlyOnceSampler(5, seed=0, global_batch=4, shuffle=False, order=order)
    drawn = sampler.draws(np.arange(8))
    assert drawn.clip[drawn.weight == 1].tolist() == order.tolist()


def test_only_the_last_batch_of_an_epoch_is_padded_and_only_at_its_end() -> None:
    sampler = build_sampler(labels_of([5, 6]), seed=0, balance=0.0, global_batch=8)
    assert sampler.steps_per_epoch == 2
    assert [sampler.real_rows(step) for step in range(4)] == [8, 3, 8, 3]
    assert sampler.draws(np.arange(8, 16)).weight.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_epochs_and_seeds_each_have_an_order_of_their_own() -> None:
    labels = labels_of([40, 60])
    for balance in (0.0, 0.5, 1.0):
        orders = {
            tuple(build_sampler(labels, seed=seed, balance=balance, global_batch=100).draws(t).clip.tolist())
            for seed in range(3)
            for t in (np.arange(100), np.arange(100, 200))
        }
        assert len(orders) == 6


def test_the_order_of_classes_has_no_pattern_from_block_to_block() -> None:
    labels = labels_of([50] * 5)
    sampler = build_sampler(labels, seed=0, balance=1.0, global_batch=5)
    blocks = labels[sampler.draws(np.arange(5 * 2000)).clip].reshape(2000, 5)
    for place in range(5):
        assert all(abs(count - 400) < 100 for count in Counter(blocks[:, place].tolist()).values())


def runs_of(values: Ints) -> int:
    """Stretches in which values stay on one side of their median."""
    above = values > np.median(values)
    return 1 + int((above[1:] != above[:-1]).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_order_within_a_pass_looks_random(seed: int, balance: float) -> None:
    """Lag correlations, and the Wald-Wolfowitz test of runs, on the clips of a pass in the order they are drawn."""
    clips = 4000
    labels = np.arange(clips) // (clips // 2)
    sampler = build_sampler(labels, seed=seed, balance=balance, global_batch=100)
    drawn = sampler.draws(np.arange(clips)).clip
    orders = [drawn] if balance == 0 else [drawn[labels[drawn] == word] for word in (0, 1)]
    for order in orders:
        n = len(order)
        for lag in (1, 2, 3, 10, 100):
            assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4.5 / math.sqrt(n)
        assert abs(runs_of(order) - (n / 2 + 1)) < 4.5 * math.sqrt(n / 4)
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4.5 / math.sqrt(n)


@given(made=samplers(), start=st.integers(0, 10**9))
@quick
def test_a_partner_is_a_clip_like_any_and_a_function_of_its_draw(made: tuple[Sampler, Ints, int], start: int) -> None:
    sampler, labels, _ = made
    t = np.arange(start, start + 30)
    partners = sampler.partners(t)
    assert ((partners >= 0) & (partners < len(labels))).all()
    assert sampler.partners(t[7:8])[0] == partners[7]


def test_partners_have_the_shares_of_the_classes_and_miss_no_clip() -> None:
    labels = labels_of([10, 90])
    for balance, share in ((0.0, 0.1), (1.0, 0.5)):
        sampler = build_sampler(labels, seed=0, balance=balance, global_batch=10)
        drawn, partners = sampler.draws(np.arange(20_000)), sampler.partners(np.arange(20_000))
        assert abs((labels[partners] == 0).mean() - share) < 0.015
        assert len(set(partners.tolist())) == 100
        assert (drawn.clip == partners).mean() < 0.1


def settings_of(**changed: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"counts": [9, 20], "seed": 1, "balance": 0.5, "global_batch": 8} | changed
    return build_sampler(labels_of(arguments.pop("counts")), **arguments).settings()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_settings_differ_when_the_draws_would_and_survive_json(balance: float) -> None:
    """P9: a run resumes only if these and the digest of the data are equal."""
    same = settings_of(balance=balance)
    assert json.loads(json.dumps(same)) == same == settings_of(balance=balance)
    changes = ({"seed": 2}, {"balance": 0.7}, {"global_batch": 16}, {"weights": (1, 2)}, {"max_share": (1, 0.3)})
    for change in changes:
        assert settings_of(**{"balance": balance} | change) != same


@given(batch=st.integers(-3, 300), accumulate=st.integers(-2, 8), world=st.integers(1, 9))
def test_a_batch_that_does_not_divide_is_answered_with_choices_that_do(batch: int, accumulate: int, world: int) -> None:
    assume(batch < 1 or accumulate < 1 or batch % (accumulate * world))
    with pytest.raises(UsageError, match=r"--train\.accumulate") as caught:
        BatchSlice(global_batch=batch, accumulate=accumulate, world=world)
    sentence = str(caught.value)
    if accumulate >= 1:
        choices = [int(word) for word in sentence.partition("such as ")[2].split(", ")]
        assert f"--train.global_batch {batch} " in sentence
        assert choices
        assert all(BatchSlice(global_batch=choice, accumulate=accumulate, world=world).rows for choice in choices)


def test_the_choices_are_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"global_batch 100 does not divide .* = 12: .* such as 96, 108$"):
        BatchSlice(global_batch=100, accumulate=3, world=4)


def test_wrong_use_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="label 1"):
        build_sampler(np.array([0, 2, 2]), seed=0, balance=1.0, global_batch=2)
    with pytest.raises(UsageError, match=r"--data\.balance 1\.5"):
        build_sampler(np.array([0, 1]), seed=0, balance=1.5, global_batch=2)
    for balance in (0.0, 1.0):
        with pytest.raises(UsageError):
            build_sampler(np.zeros(0, np.int64), seed=0, balance=balance, global_batch=2)
    labels = np.array([0, 0, 1])
    for weights in ((-1, 1), (0, 0), (float("nan"), 1)):
        with pytest.raises(UsageError):
            build_sampler(labels, seed=0, balance=1.0, global_batch=2, weights=weights)
    with pytest.raises(UsageError, match=r"--data\.max_share.* 0\.6 "):
        build_sampler(labels, seed=0, balance=1.0, global_batch=2, max_share=(0.3, 0.3))
    with pytest.raises(UsageError, match="rank 2 is not one of 2"):
        ClassBalancedDistributedSampler(labels, global_batch=2, rank=2, world=2)
