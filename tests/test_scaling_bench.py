"""What docs/scaling.md says of data and ranks larger than any at hand, run as far as a simulation can run it."""

import pytest

from kws_dist.scaling_bench import CLIPS, RANKS, bench_scaling


@pytest.fixture(scope="module")
def result() -> dict:
    return bench_scaling()


def test_a_rank_starts_with_lanes_in_no_time_whatever_the_size(result: dict) -> None:
    assert {(row["clips"], row["ranks"]) for row in result["lanes"]} == {(n, w) for n in CLIPS for w in RANKS}
    for row in result["lanes"]:
        assert row["bytes"] < 1e6
        assert row["first_batch_s"] < 5
        assert row["rank_windows"] <= 2 * max(row["lanes"] // row["ranks"], 1) + 1


def test_a_rank_needs_fewer_shards_the_more_ranks_there_are(result: dict) -> None:
    for clips in CLIPS:
        needed = [row["window_bytes"] for row in result["lanes"] if row["clips"] == clips]
        assert needed[0] > 3 * needed[-1]
        assert needed[0] < 10e9


def test_index_and_draws_in_every_process_cost_what_the_document_says(result: dict) -> None:
    per_clip = result["per_clip"]
    assert 7.9 < per_clip["draws"]["bytes"] < 8.1
    assert 60 < per_clip["index"]["file_bytes"] < 120
    assert 150 < per_clip["index"]["bytes"] < 300


def test_seeking_takes_as_long_to_the_end_of_a_run_as_to_its_beginning(result: dict) -> None:
    begin, end = result["seek"].values()
    assert end < 5 * begin + 0.01
