"""A window slides over all of a long recording, however it comes, in memory that does not grow with it."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import chirp

from kws_dist import inference
from kws_dist.errors import UsageError
from kws_dist.inference import Prediction, Window
from kws_dist.inference.prediction import merged
from kws_dist.inference.sliding import windows
from kws_dist.recording import pcm_blocks, pcm_of


def cut(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[first : first + size] for first in range(0, len(samples), size))


@pytest.mark.parametrize("block", [1, 7, 10, 64, 1000])
@pytest.mark.parametrize(
    ("n_samples", "hop", "firsts"),
    [
        (3, 4, [0]),
        (10, 4, [0]),
        (11, 4, [0, 1]),
        (14, 4, [0, 4]),
        (17, 4, [0, 4, 7]),
        (30, 10, [0, 10, 20]),
        (31, 10, [0, 10, 20, 21]),
        (12, 1, [0, 1, 2]),
    ],
)
def test_windows_of_10_samples_cover_all_and_the_last_ends_with_it(
    n_samples: int, hop: int, firsts: list[int], block: int
) -> None:
    samples = np.arange(n_samples, dtype=np.int16)
    found = list(windows(cut(samples, block), clip_samples=10, hop_samples=hop))
    assert [first for first, _ in found] == firsts
    for first, window in found:
        assert window.tolist() == samples[first : first + 10].tolist()


def test_nothing_has_no_window() -> None:
    assert list(windows([], clip_samples=10, hop_samples=4)) == []


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100, 44_101, 48_000])
@pytest.mark.parametrize("block_s", [0.37, 60.0])
def test_resampled_in_pieces_it_is_the_whole_to_within_a_16_bit_step(rate_hz: int, block_s: float) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, 33 * rate_hz + 5)
    whole = pcm_of(wave, rate_hz, 16_000)
    pieces = np.concatenate(list(pcm_blocks(cut(wave, round(block_s * rate_hz)), rate_hz, 16_000)))
    assert len(pieces) == len(whole)
    assert np.abs(pieces.astype(int) - whole).max() <= 1


def test_half_an_hour_takes_little_memory(trained_run: Path) -> None:
    predictor = inference.load(trained_run, "cpu")
    predictor.predict(np.zeros(100), 16_000)
    blocks = (np.zeros(80_000) for _ in range(180))  # 115 MB together
    tracemalloc.start()
    try:
        assert sum(1 for _ in predictor.predict_blocks(blocks, 8_000, hop_s=1.0)) == 1800
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_every_window_says_what_its_clip_alone_says(trained_run: Path) -> None:
    predictor, wave = inference.load(trained_run, "cpu"), chirp(16_000, seconds=2.1)
    found = predictor.predict_long(wave, 16_000, hop_s=0.5)
    assert [(start_s, end_s) for start_s, end_s, _ in found] == [(0, 1), (0.5, 1.5), (1, 2), (1.1, 2.1)]
    for start_s, end_s, said in found:
        alone = predictor.predict(wave[round(start_s * 16_000) : round(end_s * 16_000)], 16_000)
        np.testing.assert_allclose(said.scores, alone.scores, rtol=1e-5)


def test_a_recording_shorter_than_a_clip_is_one_window(trained_run: Path) -> None:
    predictor, wave = inference.load(trained_run, "cpu"), chirp(8_000, seconds=0.3)
    (window,) = predictor.predict_long(np.stack([wave, wave]), 8_000)
    assert (window.start_s, window.end_s) == (0, 0.3)
    assert np.array_equal(window.prediction.scores, predictor.predict(wave, 8_000).scores)


@pytest.mark.parametrize("hop_s", [0, -1, 1.5, float("nan"), float("inf"), 1e-9])
def test_windows_that_leave_gaps_or_stand_still_are_refused(trained_run: Path, hop_s: float) -> None:
    with pytest.raises(UsageError, match="--hop_s"):
        inference.load(trained_run, "cpu").predict_long(np.zeros(32_000), 16_000, hop_s)


def said(*scores: float) -> Prediction:
    return Prediction(("a", "b"), np.array(scores, np.float32))


def test_neighbours_with_the_same_word_become_one_with_the_best_score() -> None:
    found = [
        Window(0, 1, said(0.6, 0.4)),
        Window(0.5, 1.5, said(0.9, 0.1)),
        Window(1, 2, said(0.7, 0.3)),
        Window(1.5, 2.5, said(0.2, 0.8)),
        Window(2, 3, said(0.8, 0.2)),
    ]
    rows = [(start_s, end_s, one.word, round(one.score, 3)) for start_s, end_s, one in merged(found)]
    assert rows == [(0, 2, "a", 0.9), (1.5, 2.5, "b", 0.8), (2, 3, "a", 0.8)]
    assert list(merged([])) == []
