"""Runs and recordings that the tests of this folder share."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from launching import SMALL, python, run
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def trained_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second on tones; its front end normalises by the training clips, so that has to be kept too."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    common = ("--data.shards", tiny_dataset, "--run_dir", run_dir, "--features.normalize", "dataset")
    run(python("launch/train.py", *common, *SMALL))
    return run_dir


@pytest.fixture
def own_run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(trained_run, tmp_path / "own")


def chirp(rate_hz: int, seconds: float = 0.5) -> NDArray[np.float64]:
    """Return a sound that rises from 100 Hz to 3 kHz, `(samples,)`: all rates from 8 kHz on hold it."""
    at_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return 0.5 * np.sin(2 * np.pi * (100 * at_s + 2900 * at_s**2 / (2 * seconds)))
