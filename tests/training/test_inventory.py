"""`tools/runs.py verify` and `prune`: which checkpoints of a run are whole, and which are kept."""

from pathlib import Path

import pytest
import torch
from launching import python, run

from kws_dist.run import RunFolder
from kws_dist.training import checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run with four step checkpoints, the newest damaged, a best one, and the draft of a crashed save."""
    folder = tmp_path / "checkpoints"
    for name, step in [("best", 20), *((checkpoint.step_name(step), step) for step in (10, 20, 30, 40))]:
        checkpoint.save(folder / name, {"weights": {"w": torch.ones(3)}}, {"step": step})
    weights = folder / "step-00000040" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (folder / "step-00000050.tmp").mkdir()
    return tmp_path


def test_every_checkpoint_is_listed_and_a_damaged_one_named(saved: Path) -> None:
    said = run(python("tools/runs.py", "verify", saved), expect=1).stdout
    rows = [line.split() for line in said.splitlines()]
    assert ["best", "20", "0.0", "whole"] in rows
    assert ["step-00000030", "30", "0.0", "whole"] in rows
    assert ["step-00000040", "40", "0.0", "damaged"] in rows
    assert f"{saved / 'checkpoints' / 'step-00000040' / 'weights.safetensors'} has" in said
    assert len(checkpoint.step_folders(saved / "checkpoints")) == 4, "looking changes nothing"


def test_pruning_keeps_two_whole_ones_and_the_best(saved: Path) -> None:
    said = run(python("tools/runs.py", "prune", saved)).stdout
    assert "removed: step-00000010, step-00000040, step-00000050.tmp" in said
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["best", "step-00000020", "step-00000030"]
    assert run(python("tools/runs.py", "verify", saved)).returncode == 0


def test_a_damaged_one_stays_where_there_are_not_two_whole_ones_without_it(saved: Path) -> None:
    for step in (10, 20):
        (saved / "checkpoints" / checkpoint.step_name(step) / "manifest.json").unlink()
    run(python("tools/runs.py", "prune", saved), expect=1)
    assert len(checkpoint.step_folders(saved / "checkpoints")) == 4


def test_what_cannot_be_pruned_is_said(saved: Path, tmp_path: Path) -> None:
    assert (
        "--keep 1 should be 2 or more" in run(python("tools/runs.py", "prune", saved, "--keep", "1"), expect=2).stderr
    )
    with RunFolder(saved).open():
        assert "another process is writing to it" in run(python("tools/runs.py", "prune", saved), expect=2).stderr
    assert "holds no checkpoints" in run(python("tools/runs.py", "verify", tmp_path / "none"), expect=2).stderr
