"""Keyed permutations and keyed random numbers: bijections, no visible pattern, the same everywhere."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kws_dist import keyed
from kws_dist.data.permutation import Ranges, permute

Ints = NDArray[np.int64]

int64 = st.integers(-(2**63), 2**63 - 1)


def order(size: int, key: int, counter: int = 0) -> Ints:
    """Return a whole permutation of `range(size)`."""
    return permute(np.arange(size), Ranges.of(np.full(size, size)), key, np.full(size, counter))


@given(size=st.integers(1, 3000), key=int64, counter=st.integers(0, 2**62))
@settings(deadline=None)
def test_a_permutation_holds_every_number_below_its_size_once(size: int, key: int, counter: int) -> None:
    assert sorted(order(size, key, counter).tolist()) == list(range(size))


@given(sizes=st.lists(st.integers(1, 2**40), min_size=1, max_size=50), key=int64, data=st.data())
@settings(deadline=None)
def test_each_element_has_its_own_range_and_depends_on_nothing_beside_it(
    sizes: list[int], key: int, data: st.DataObject
) -> None:
    x = np.array([data.draw(st.integers(0, size - 1)) for size in sizes])
    ranges, counter = Ranges.of(sizes), np.arange(len(sizes)) * 7
    before = x.copy()
    together = permute(x, ranges, key, counter)
    alone = [np.array([i]) for i in range(len(sizes))]
    one_by_one = [permute(x[i], ranges.at(i), key, counter[i])[0] for i in alone]
    assert ((together >= 0) & (together < np.array(sizes))).all()
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(x, before)


@given(sizes=st.lists(st.integers(1, 2**45), min_size=1, max_size=30), key=int64, data=st.data())
@settings(deadline=None)
def test_numpy_and_torch_permute_alike(sizes: list[int], key: int, data: st.DataObject) -> None:
    x = np.array([data.draw(st.integers(0, size - 1)) for size in sizes])
    ranges, counter = Ranges.of(sizes), np.arange(len(sizes)) * 7
    tensors = Ranges(*(torch.from_numpy(part) for part in (ranges.size, ranges.low, ranges.high)))
    on_torch = permute(torch.from_numpy(x), tensors, key, torch.from_numpy(counter))
    assert on_torch.tolist() == permute(x, ranges, key, counter).tolist()


@given(size=st.integers(1, 2**52))
def test_two_digits_hold_a_range_and_hardly_more(size: int) -> None:
    ranges = Ranges.of([size])
    low, high = int(ranges.low[0]), int(ranges.high[0])
    assert size <= low * high < size + low


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_24_orders_of_4_come_about_equally_often(seed: int) -> None:
    orders = 24 * 200
    x, counter = np.tile(np.arange(4), orders), np.repeat(np.arange(orders), 4)
    drawn = permute(x, Ranges.of(np.full(len(x), 4)), keyed.fold(seed, 9), counter).reshape(orders, 4)
    counts = [int((drawn == one).all(axis=1).sum()) for one in itertools.permutations(range(4))]
    chi_square = sum((count - 200) ** 2 / 200 for count in counts)
    assert chi_square < 60  # 23 degrees of freedom: 49.7 is passed once in a thousand


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_neighbours_in_a_permutation_have_nothing_to_do_with_each_other(seed: int) -> None:
    size = 5000
    drawn = order(size, keyed.fold(seed, 9))
    correlation = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
    assert abs(correlation) < 4 / math.sqrt(size)


def test_keys_and_counters_give_unrelated_permutations() -> None:
    size = 5000
    first = order(size, 1)
    for other in (order(size, 2), order(size, 1, counter=1)):
        assert (first == other).sum() < 10  # one on average
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / math.sqrt(size)


@given(values=st.lists(int64, min_size=1, max_size=20), key=int64)
def test_numpy_and_torch_hash_to_the_same_bits(values: list[int], key: int) -> None:
    of_numpy = keyed.mixed_with(key, np.array(values, np.int64))
    assert keyed.mixed_with(key, torch.tensor(values)).tolist() == of_numpy.tolist()
    assert keyed.mix(torch.tensor(values)).tolist() == keyed.mix(np.array(values, np.int64)).tolist()


def splitmix64_finaliser(x: int) -> int:
    """The published mixer, in plain integers."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 % 2**64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@given(x=st.integers(0, 2**64 - 1))
def test_the_mixer_is_that_of_splitmix64(x: int) -> None:
    mixed = keyed.mix(np.array([x], np.uint64).view(np.int64)).view(np.uint64)
    assert int(mixed[0]) == splitmix64_finaliser(x)


@given(parts=st.lists(int64, min_size=2, max_size=4, unique=True), key=st.integers(-(2**70), 2**70))
def test_a_folded_key_depends_on_every_part_and_on_their_order(parts: list[int], key: int) -> None:
    folded = {keyed.fold(key, *arranged) for arranged in itertools.permutations(parts)}
    assert len(folded) == math.factorial(len(parts))
    assert keyed.fold(key, *parts) not in {keyed.fold(key, *parts[:-1]), keyed.fold(key + 1, *parts)}


@given(
    seed=st.integers(0, 2**64),
    purpose=st.integers(0, 99),
    draws=st.lists(st.integers(0, 2**50), min_size=1, max_size=20),
    count=st.integers(1, 6),
)
def test_the_numbers_of_a_draw_are_the_same_in_any_batch(seed: int, purpose: int, draws: list[int], count: int) -> None:
    batch = keyed.uniforms(seed, purpose, torch.tensor(draws), count)
    assert batch.dtype == torch.float32
    assert ((batch >= 0) & (batch < 1)).all()
    for row, draw in zip(batch, draws, strict=True):
        assert torch.equal(row, keyed.uniforms(seed, purpose, torch.tensor([draw]), count)[0])
        # A later use that needs more numbers leaves those of today as they are.
        assert torch.equal(row, keyed.uniforms(seed, purpose, torch.tensor([draw]), count + 3)[0, :count])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_are_uniform_and_uncorrelated_over_purposes_seeds_columns_and_draws(seed: int) -> None:
    draws = torch.arange(20_000)
    columns = torch.cat(
        [keyed.uniforms(seed, 1, draws, 3), keyed.uniforms(seed, 2, draws, 3), keyed.uniforms(seed + 1, 1, draws, 3)],
        dim=1,
    ).numpy()
    columns = np.concatenate([columns[1:], columns[:-1, :3]], axis=1)  # and the draw before
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 5 / math.sqrt(len(draws))
    for column in columns.T:
        counts = np.bincount((column * 20).astype(int), minlength=20)
        chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi_square < 55  # 19 degrees of freedom
