"""The pictures of a run folder: real pictures, for any run, without a trace in the process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from kws_dist.evaluation.plots import confusion, learning_curves


def training(steps: int) -> list[dict[str, Any]]:
    """Return the records of a training with a validation every 20 steps."""
    records: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        train = {"train/loss": 3 / step, "train/accuracy": 1 - 1 / step, "train/learning_rate": 0.1}
        records.append({"step": step, **train, "perf/clips_per_s": 1000.0})
        if step % 20 == 0:
            records.append({"step": step, "val/loss": 4 / step, "val/accuracy": 1 - 1.5 / step})
    return records


def ink(path: Path) -> float:
    """Return the share of the pixels of a PNG that are not white."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return float((imread(path)[..., :3].min(axis=2) < 0.99).mean())


@pytest.mark.parametrize("records", [[], training(1), training(100), [{"step": 1, "train/loss": None}]])
def test_any_history_makes_a_picture(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    learning_curves(records, tmp_path / "results.png")
    assert ink(tmp_path / "results.png") > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


def test_every_curve_is_drawn(tmp_path: Path) -> None:
    pictures = set()
    for missing in ("", "train/loss", "train/accuracy", "train/learning_rate", "perf/clips_per_s", "val/loss"):
        records = [{name: value for name, value in record.items() if name != missing} for record in training(40)]
        learning_curves(records, tmp_path / "results.png")
        pictures.add(imread(tmp_path / "results.png").tobytes())
    assert len(pictures) == 6


@pytest.mark.parametrize("n_words", [1, 2, 12, 35, 60])
def test_any_vocabulary_makes_a_confusion_matrix(tmp_path: Path, n_words: int) -> None:
    matrix = np.full((n_words, n_words), 2) + 300 * np.eye(n_words, dtype=int)
    confusion(matrix, [f"word {i}" for i in range(n_words)], tmp_path / "confusion.png")
    assert ink(tmp_path / "confusion.png") > 0.1
    height, width = imread(tmp_path / "confusion.png").shape[:2]
    assert min(width, height) > 200
    assert max(width, height) < 4000


def test_rows_are_coloured_by_their_own_share_not_by_their_size(tmp_path: Path) -> None:
    confusion(np.array([[5, 0], [0, 50_000]]), ["rare", "common"], tmp_path / "confusion.png")
    pixels = imread(tmp_path / "confusion.png")[..., :3]
    darkest = np.array([8, 48, 107]) / 255  # the end of the colour map
    # Two cells and the end of the colour bar: clearly more than one cell of some 40 x 40 pixels.
    assert np.all(np.abs(pixels - darkest) < 0.02, axis=2).sum() > 15_000


def test_a_word_without_clips_has_no_recall(tmp_path: Path) -> None:
    matrix = np.array([[3, 1], [0, 0]])
    confusion(matrix, ["yes", "no"], tmp_path / "confusion.png")
    assert ink(tmp_path / "confusion.png") > 0.1


def test_a_word_is_never_read_as_a_formula(tmp_path: Path) -> None:
    confusion(np.eye(2, dtype=int), [r"$\frac$", "5$"], tmp_path / "confusion.png")
    assert ink(tmp_path / "confusion.png") > 0.1


def test_the_global_state_of_matplotlib_is_left_alone() -> None:
    drawing = """
import pathlib, sys, tempfile, numpy as np
import matplotlib
before = matplotlib.rcParams.copy()
from kws_dist.evaluation.plots import confusion, learning_curves
with tempfile.TemporaryDirectory() as folder:
    learning_curves([], pathlib.Path(folder, "a.png"))
    confusion(np.eye(2, dtype=int), ["a", "b"], pathlib.Path(folder, "b.png"))
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", drawing], check=True)
