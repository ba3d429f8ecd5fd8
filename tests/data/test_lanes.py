"""Draws in a windowed order: as exact as any, and only a few shards are needed at a time."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kws_dist.data.balanced_lanes import BalancedLanes, build_lanes
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.lanes import Lanes, LaneSampler
from kws_dist.data.once_lanes import OnceLanes
from kws_dist.data.quota import block_quota, class_shares
from kws_dist.errors import UsageError

Ints = NDArray[np.int64]

quick = settings(deadline=None, max_examples=40)


def stratified(counts: list[int]) -> Ints:
    """Labels in the order of the shards: every stretch holds about the shares of the whole."""
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind="stable")]


def sampler(
    counts: list[int],
    *,
    batch: int,
    lanes: int,
    shards: int = 1,
    balance: float | None = 1.0,
    seed: int = 0,
    longest: int = 1 << 16,
) -> tuple[LaneSampler, Ints]:
    """A sampler and the labels by clip number; clips are numbered in another order than they lie in the shards."""
    in_order = stratified(counts)
    order = np.random.default_rng(1).permutation(len(in_order))
    labels = np.empty_like(in_order)
    labels[order] = in_order
    plan = Lanes.plan(clips=len(labels), shards=shards, global_batch=batch, lanes=lanes)
    if balance is None:
        return OnceLanes(plan, seed=seed, clip_at=order), labels
    quota = block_quota(class_shares(np.array(counts), balance=balance), longest_draws=longest)
    return build_lanes(plan, labels, order, seed=seed, quota=quota), labels


@st.composite
def samplers(draw: st.DrawFn) -> tuple[LaneSampler, Ints]:
    lanes = draw(st.sampled_from([1, 2, 4, 12]))
    counts = draw(st.lists(st.integers(4, 60), min_size=1, max_size=5))
    balance = draw(st.sampled_from([None, 0.3, 1.0]))
    shards, seed = draw(st.integers(1, 2 * lanes if sum(counts) > 4 * lanes else 1)), draw(st.integers(0, 2**40))
    if sum(counts) < lanes * math.ceil(shards / lanes):
        counts = [*counts, 60]
    return sampler(counts, batch=72 * draw(st.integers(1, 2)), lanes=lanes, shards=shards, balance=balance, seed=seed)


@given(
    made=samplers(), split=st.sampled_from([(w, a) for w in (1, 2, 3, 4) for a in (1, 2, 3)]), step=st.integers(0, 999)
)
@quick
def test_the_slices_of_ranks_joined_are_one_sequence(
    made: tuple[LaneSampler, Ints], split: tuple[int, int], step: int
) -> None:
    """P1 to P3."""
    one, _ = made
    world, accumulate = split
    batch = one.lanes.global_batch
    parts = [
        one.draws(BatchSlice(global_batch=batch, accumulate=accumulate, rank=r, world=world).draw_numbers(step, a))
        for a in range(accumulate)
        for r in range(world)
    ]
    whole = one.draws(np.arange(step * batch, (step + 1) * batch))
    assert np.concatenate([part.clip for part in parts]).tolist() == whole.clip.tolist()
    assert np.concatenate([part.weight for part in parts]).tolist() == whole.weight.tolist()


@given(made=samplers(), start=st.integers(0, 10**6))
@quick
def test_a_draw_alone_and_in_any_order_is_the_draw_in_a_batch(made: tuple[LaneSampler, Ints], start: int) -> None:
    """P4."""
    one, labels = made
    t = np.arange(start, start + 60)
    drawn = one.draws(t)
    assert ((drawn.clip >= 0) & (drawn.clip < len(labels))).all()
    assert one.draws(t[::-1].copy()).clip[::-1].tolist() == drawn.clip.tolist()
    assert one.draws(t[23:24]).clip[0] == drawn.clip[23]
    assert one.partners(t)[23] == one.partners(t[23:24])[0]


@given(made=samplers(), epoch=st.integers(0, 50))
@quick
def test_without_shares_every_clip_is_drawn_exactly_once_an_epoch(made: tuple[LaneSampler, Ints], epoch: int) -> None:
    one, labels = made
    assume(isinstance(one, OnceLanes))
    batch = one.lanes.global_batch
    steps = range(epoch * one.steps_per_epoch, (epoch + 1) * one.steps_per_epoch)
    drawn = [one.draws(np.arange(step * batch, (step + 1) * batch)) for step in steps]
    real = np.concatenate([part.clip[part.weight == 1] for part in drawn])
    assert sorted(real.tolist()) == list(range(len(labels)))
    assert [int(part.weight.sum()) for part in drawn] == [one.real_rows(step) for step in steps]
    assert all(part.weight.all() for part in drawn[:-1])
    assert drawn[-1].weight.any()


def test_each_epoch_has_an_order_of_its_own() -> None:
    for balance in (None, 1.0):
        one, _ = sampler([100, 100], batch=20, lanes=4, shards=8, balance=balance)
        first, second = (one.draws(np.arange(200) + 200 * epoch).clip.tolist() for epoch in (0, 1))
        assert sum(a == b for a, b in zip(first, second, strict=True)) < 20


@pytest.mark.parametrize("lanes", [1, 8, 56])
def test_every_batch_holds_each_of_35_words_32_times(lanes: int) -> None:
    """P6, across the lanes of a step, whatever their number."""
    one, labels = sampler([100 + 13 * word for word in range(35)], batch=1120, lanes=lanes, shards=2 * lanes)
    for step in (0, 1, 7, 10**5):
        drawn = labels[one.draws(np.arange(step * 1120, (step + 1) * 1120)).clip]
        assert np.bincount(drawn).tolist() == [32] * 35


@given(made=samplers(), step=st.integers(0, 200))
@quick
def test_any_stretch_of_a_step_as_long_as_the_quota_is_exact(made: tuple[LaneSampler, Ints], step: int) -> None:
    one, labels = made
    assume(isinstance(one, BalancedLanes) and one.quota.sum() <= one.lanes.global_batch)
    assert isinstance(one, BalancedLanes)
    batch, length = one.lanes.global_batch, int(one.quota.sum())
    drawn = labels[one.draws(np.arange(step * batch, (step + 1) * batch)).clip]
    # Each lane's rows of a step follow on those of the lane before.
    for first in range(batch - length + 1):
        assert np.bincount(drawn[first : first + length], minlength=len(one.quota)).tolist() == one.quota.tolist()


@pytest.mark.parametrize("balance", [0.4, 1.0])
def test_within_a_group_and_class_visits_differ_by_at_most_one_over_all_epochs(balance: float) -> None:
    """P7."""
    counts, lanes = [40, 90, 200], 4
    one, labels = sampler(counts, batch=12, lanes=lanes, shards=8, balance=balance)
    assert isinstance(one, BalancedLanes)
    windows = one.lanes.windows * one.window_draws * lanes  # draws of an epoch
    assert not one.reservoir
    for epochs in (1, 2, 7):
        visits = np.bincount(one.draws(np.arange(epochs * windows)).clip, minlength=len(labels))
        for group in range(one.lanes.groups):
            places = one.lanes.group_clips(group)
            clips = one._clip_at[places.start : places.stop]  # type: ignore[index]
            for word in range(len(counts)):
                assert np.ptp(visits[clips][labels[clips] == word]) <= 1


@given(made=samplers(), step=st.integers(0, 300), world=st.sampled_from([1, 2, 3, 4, 6]))
@quick
def test_a_rank_draws_only_from_the_windows_it_was_told_of(
    made: tuple[LaneSampler, Ints], step: int, world: int
) -> None:
    one, _ = made
    batch = one.lanes.global_batch
    place_of = np.argsort(one._clip_at)  # type: ignore[arg-type]
    for rank in range(world):
        t = BatchSlice(global_batch=batch, rank=rank, world=world).step_numbers(step)
        now, soon = one.windows(t)
        allowed = {place for window in now for place in window}
        kept = {place for places in one.reservoir.values() for place in places.tolist()}
        drawn, partners = one.draws(t), one.partners(t)
        assert set(place_of[drawn.clip[drawn.weight == 1]].tolist()) <= allowed | kept
        assert set(place_of[partners].tolist()) <= allowed | kept
        if one.lanes.lanes % world == 0:
            # A lane's rows of one step are in a group, or in as many as they fill and one more.
            smallest = int(one.lanes.sizes(np.arange(one.lanes.groups)).min())
            assert len(soon) <= (1 + -(-one.lanes.rows // smallest)) * one.lanes.lanes // world


@pytest.mark.parametrize("balance", [None, 1.0])
def test_what_comes_next_is_known_a_window_ahead(balance: float | None) -> None:
    """Else a lane would come to shards that nobody has fetched."""
    one, _ = sampler([100, 100], batch=20, lanes=4, shards=20, balance=balance)
    known: set[range] = set()
    for step in range(3 * one.steps_per_epoch):
        now, soon = one.windows(np.arange(step * 20, (step + 1) * 20))
        begins_epoch = balance is None and step % one.steps_per_epoch == 0
        assert step == 0 or begins_epoch or {*now} <= known
        known = {*now, *soon}


def test_neighbouring_steps_hold_other_classes_where_a_step_is_shorter_than_the_schedule() -> None:
    counts = [200 + 40 * word for word in range(20)]
    one, labels = sampler(counts, batch=32, lanes=16, shards=16, balance=0.5)
    assert isinstance(one, BalancedLanes)
    assert one.quota.sum() > 10 * 32
    steps = [np.bincount(labels[one.draws(np.arange(s * 32, (s + 1) * 32)).clip], minlength=20) for s in range(80)]
    share = one.quota / one.quota.sum()
    correlation = np.corrcoef(np.concatenate(steps[:-1]), np.concatenate(steps[1:]))[0, 1]
    assert correlation < 0.2
    drawn = np.sum(steps, axis=0)
    assert (np.abs(drawn - share * drawn.sum()) < 0.25 * share * drawn.sum()).all()


def test_a_window_is_as_long_as_its_group_where_the_schedule_is_not_longer() -> None:
    counts = [1000, 1000, 5]
    one, labels = sampler(counts, batch=16, lanes=4, shards=8, balance=0.3, longest=2005 // 8)
    assert isinstance(one, BalancedLanes)
    assert one.window_draws < 1.5 * 2005 / 8
    seen = np.unique(one.draws(np.arange(2 * 2005)).clip)
    assert len(seen) > 0.8 * len(labels)


def test_resuming_asks_for_the_labels_of_the_windows_it_needs_and_no_others() -> None:
    lanes = Lanes.plan(clips=10**10, shards=10**7, global_batch=128)
    asked: list[range] = []

    def labels(places: range) -> Ints:
        asked.append(places)
        return np.arange(places.start, places.stop) % 20

    one = BalancedLanes(lanes, labels, seed=3, quota=np.ones(20, np.int64))
    drawn = one.draws(np.arange(10**12, 10**12 + 128))
    assert len(asked) == 64
    assert sum(map(len, asked)) < 64 * 1100
    assert Counter((drawn.clip % 20).tolist()).most_common(1)[0][1] <= 7


def test_a_class_that_a_group_lacks_and_no_reservoir_has_is_refused() -> None:
    lanes = Lanes.plan(clips=100, shards=1, global_batch=10, lanes=2)
    one = BalancedLanes(lanes, lambda places: np.zeros(len(places), np.int64), seed=0, quota=np.ones(2, np.int64))
    with pytest.raises(UsageError, match="class 1 is in no clip of group"):
        one.draws(np.arange(10))


def test_a_class_that_some_group_lacks_comes_from_the_reservoir() -> None:
    one, labels = sampler([3, 200, 200], batch=12, lanes=4, shards=16)
    assert list(one.reservoir) == [0]
    drawn = one.draws(np.arange(1200)).clip
    assert np.bincount(labels[drawn]).tolist() == [400] * 3
    visits = np.bincount(drawn, minlength=len(labels))[labels == 0]
    assert np.ptp(visits) <= 4  # one for each lane


@given(lanes=st.integers(1, 64), shards=st.integers(1, 500), batch=st.integers(1, 20))
def test_groups_hold_every_clip_once_and_differ_by_at_most_one(lanes: int, shards: int, batch: int) -> None:
    batch *= lanes
    plan = Lanes.plan(clips=7919, shards=shards, global_batch=batch, lanes=lanes)
    groups = [plan.group_clips(group) for group in range(plan.groups)]
    assert [place for group in groups for place in group] == list(range(7919))
    sizes = plan.sizes(np.arange(plan.groups))
    assert sizes.tolist() == [len(group) for group in groups]
    assert np.ptp(sizes) <= 1
    assert plan.groups % lanes == 0


def test_by_default_there_are_as_many_lanes_up_to_64_as_divide_the_batch() -> None:
    for batch, lanes in ((128, 64), (100, 50), (40, 40), (97, 1), (1120, 56)):
        assert Lanes.plan(clips=10_000, shards=10, global_batch=batch).lanes == lanes


def test_lanes_that_do_not_divide_the_batch_are_answered_with_some_that_do() -> None:
    with pytest.raises(UsageError, match=r"--data\.lanes 7 .*global_batch 100: choose for instance 4, 5, 10"):
        Lanes.plan(clips=1000, shards=10, global_batch=100, lanes=7)
    with pytest.raises(UsageError, match=r"--data\.window_shards 0 should"):
        Lanes.plan(clips=1000, shards=10, global_batch=100, window_shards=0)
    with pytest.raises(UsageError, match=r"--data\.lanes 16: 10 clips are too few"):
        Lanes.plan(clips=10, shards=1, global_batch=16, lanes=16)


def test_settings_tell_other_draws_apart_and_survive_json() -> None:
    """P9."""
    base = {"counts": [50, 60], "batch": 12, "lanes": 4}
    said = [
        sampler(**{**base, **change})[0].settings()  # type: ignore[arg-type]
        for change in (
            {},
            {"seed": 1},
            {"lanes": 2},
            {"batch": 24},
            {"balance": None},
            {"balance": 0.5},
            {"shards": 20},
        )
    ]
    assert len({json.dumps(one, sort_keys=True) for one in said}) == len(said)


def test_settings_tell_another_order_of_the_shards_apart() -> None:
    """P9: the same clips, dealt to the shards in another way, make other draws."""
    lanes = Lanes.plan(clips=40, shards=4, global_batch=8)
    said = [OnceLanes(lanes, seed=0, clip_at=np.roll(np.arange(40), shift)).settings() for shift in (0, 1)]
    assert said[0] != said[1]
