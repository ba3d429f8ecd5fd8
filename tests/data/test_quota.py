"""Shares of the classes, and blocks of draws that hold them exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws_dist.data.quota import LONGEST_BLOCK_DRAWS, block_quota, class_shares

counts_of = st.lists(st.integers(1, 5000), min_size=1, max_size=40)
balances = st.floats(0, 1)


@given(counts=counts_of, balance=balances)
def test_shares_lie_between_natural_and_equal(counts: list[int], balance: float) -> None:
    share = class_shares(np.array(counts), balance=balance)
    np.testing.assert_allclose(share.sum(), 1.0)
    wanted = np.array(counts, float) ** (1 - balance)
    np.testing.assert_allclose(share, wanted / wanted.sum())


@given(counts=counts_of, balance=balances)
def test_a_block_holds_the_shares_to_within_a_hundredth_or_a_draw_of_65536(counts: list[int], balance: float) -> None:
    share = class_shares(np.array(counts), balance=balance)
    quota = block_quota(share)
    length = quota.sum()
    assert quota.min() >= 1
    assert length <= LONGEST_BLOCK_DRAWS
    off = np.abs(quota - share * length)
    # In the longest block a share below one draw is raised to one, at the cost of the others.
    assert (off <= np.maximum(0.01 * share * length, (length > 4096) * (1 + (share * length < 1).sum())) + 1e-6).all()


def test_equal_shares_make_a_block_of_one_draw_each_and_simple_ones_a_short_one() -> None:
    assert block_quota(np.full(35, 1 / 35)).tolist() == [1] * 35
    assert block_quota(np.array([2, 1, 1, 1]) / 5).tolist() == [2, 1, 1, 1]
    assert block_quota(np.array([0.75, 0.25])).tolist() == [3, 1]


def test_a_weight_multiplies_a_share_and_zero_leaves_a_word_out() -> None:
    counts = np.array([100, 100, 400])
    share = class_shares(counts, balance=1.0, weights=np.array([1.0, 3.0, 0.0]))
    np.testing.assert_allclose(share, [0.25, 0.75, 0])
    assert block_quota(share).tolist() == [1, 3, 0]


def test_a_cap_holds_a_large_class_down_and_the_others_keep_their_proportions() -> None:
    counts = np.array([100, 200, 9700])
    share = class_shares(counts, balance=0.0, max_share=np.array([1.0, 1.0, 0.1]))
    np.testing.assert_allclose(share, [0.3, 0.6, 0.1])


def test_what_a_cap_cuts_off_never_lifts_another_over_its_own() -> None:
    share = class_shares(np.array([1, 1, 8]), balance=0.0, max_share=np.array([0.2, 1.0, 0.3]))
    np.testing.assert_allclose(share, [0.2, 0.5, 0.3])


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_cap_above_the_share_changes_nothing(balance: float) -> None:
    counts = np.array([10, 20, 30])
    np.testing.assert_array_equal(
        class_shares(counts, balance=balance, max_share=np.array([0.9, 0.9, 0.9])),
        class_shares(counts, balance=balance),
    )
