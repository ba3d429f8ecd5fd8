"""Wilson's interval, against published values and its own definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws_dist.evaluation.interval import wilson_interval


@pytest.mark.parametrize(
    ("correct", "n", "lowest", "highest"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17
        # (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(correct: int, n: int, lowest: float, highest: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((lowest, highest), abs=5e-5)


@given(st.integers(1, 20_000), st.data())
def test_its_ends_are_where_the_score_test_just_rejects(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    lowest, highest = wilson_interval(correct, n)
    assert 0 <= lowest <= correct / n + 1e-12
    assert correct / n - 1e-12 <= highest <= 1
    for end in (lowest, highest):
        if 1e-9 < end < 1 - 1e-9:
            z = abs(correct / n - end) / math.sqrt(end * (1 - end) / n)
            assert z == pytest.approx(1.96, rel=1e-6)


def test_right_and_wrong_mirror_each_other() -> None:
    low, high = wilson_interval(3, 10)
    assert wilson_interval(7, 10) == pytest.approx((1 - high, 1 - low))


def test_without_answers_nothing_is_known() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        wilson_interval(correct, n)
