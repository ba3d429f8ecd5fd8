"""The model of what summing gradients costs, against values worked out by hand."""

import pytest

from kws_dist.communication import (
    GPUS,
    Cluster,
    ModelCost,
    all_reduce_s,
    efficiency,
    exposed_s,
    least_step_s,
    scaling_rows,
)

US = 1e-6
KB, MB, GB = 1e3, 1e6, 1e9


def test_one_gpu_sends_nothing() -> None:
    assert all_reduce_s(GB, 1) == 0
    assert efficiency(MB, 1, step_s=1e-3) == 1


@pytest.mark.parametrize(
    ("gpus", "microseconds"),
    [
        (8, 6.6 + 14 * 0.6),  # a ring: 2 x 7 hops over NVLink
        (64, 6.8 + 14 * 0.6 + 6 * 5.0),  # a tree of 8 machines: 3 levels up, 3 down, and the chain in each machine
        (512, 6.8 + 14 * 0.6 + 12 * 5.0),  # of 64 machines: 6 levels
    ],
)
def test_of_a_small_gradient_only_the_hops_count(gpus: int, microseconds: float) -> None:
    assert all_reduce_s(1, gpus) == pytest.approx(microseconds * US, rel=1e-3)


@pytest.mark.parametrize(
    ("gpus", "seconds"),
    [
        (8, 40.6 * US + 1.75 * GB / (0.92 * 450 * GB)),  # 14 us and 14 hops of 1.9 us; 2 x 7/8 of the bytes
        (64, 282.8 * US + 1.96875 * GB / (0.92 * 400 * GB)),  # 112 hops inside machines and 14 of 4 us between them
    ],
)
def test_of_a_large_gradient_the_bytes_count(gpus: int, seconds: float) -> None:
    assert all_reduce_s(GB, gpus) == pytest.approx(seconds)


def test_a_slower_network_is_felt_only_between_machines() -> None:
    ethernet = Cluster(network_bytes_per_s=3e9)
    assert all_reduce_s(GB, 8, ethernet) == all_reduce_s(GB, 8)
    assert all_reduce_s(GB, 64, ethernet) > 15 * all_reduce_s(GB, 64)


def test_what_one_bucket_costs_is_never_hidden() -> None:
    for backward_s in (0.0, 1.0):
        assert exposed_s(MB, 64, backward_s=backward_s) == all_reduce_s(MB, 64)


def test_of_several_buckets_the_last_one_is_left_or_what_the_backward_pass_is_too_short_for() -> None:
    one_s = all_reduce_s(10 * MB, 64)
    four = {"gradient_bytes": 40 * MB, "gpus": 64, "bucket_bytes": 10 * MB}
    assert exposed_s(**four, backward_s=1.0) == one_s
    assert exposed_s(**four, backward_s=0.0) == pytest.approx(4 * one_s)
    assert exposed_s(**four, backward_s=one_s) == pytest.approx((4 - 3 / 4) * one_s)


def test_the_least_step_has_the_efficiency_that_it_is_for() -> None:
    for gpus in GPUS:
        assert efficiency(MB, gpus, step_s=least_step_s(MB, gpus, goal=0.9)) == pytest.approx(0.9)
        assert efficiency(MB, gpus, step_s=1e-3) > efficiency(MB, gpus, step_s=5e-4)  # more clips, or accumulation


def test_the_rows_follow_from_the_limits_of_the_device() -> None:
    cost = ModelCost(model="some", parameters=250_000, macs=10**6, activation_bytes=10.75e6)
    assert cost.gradient_bytes == MB
    assert cost.clips_per_s == pytest.approx(200_000)  # 24 MB moved for a clip, 21.5 of them by the model, at 4.8 TB/s
    by_arithmetic = ModelCost(model="some", parameters=1, macs=10**9, activation_bytes=1)
    assert by_arithmetic.clips_per_s == pytest.approx(989e12 / 6e9)
    row = scaling_rows(cost)[0]
    sum_s = 15.0 * US + 1.75 * MB / (450 * GB / 4)
    assert row["gpus"] == 8
    assert row["all_reduce_us"] == pytest.approx(sum_s / US)
    assert row["efficiency"] == pytest.approx(1.28e-3 / (1.28e-3 + sum_s))  # 256 clips take 1.28 ms
    assert row["least_clips"] == 1 + int(19 * sum_s * 200_000)
