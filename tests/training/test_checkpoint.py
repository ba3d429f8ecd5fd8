"""A checkpoint is whole or it is not loaded; what is kept is never less than two whole ones."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import permission_denied

from kws_dist.errors import DataError
from kws_dist.training import checkpoint

TENSORS = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)},
    "optimizer": {"0.momentum_buffer": torch.ones(2, 3)},
}
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def save(folder: Path, step: int) -> Path:
    path = folder / checkpoint.step_name(step)
    checkpoint.save(path, TENSORS, {"step": step})
    return path


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a folder": replace_by_a_folder,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": flip_a_bit,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    loaded = checkpoint.load(save(tmp_path, 7))
    assert loaded.state["step"] == 7
    assert loaded.tensors.keys() == TENSORS.keys()
    for part, tensors in TENSORS.items():
        for name, tensor in tensors.items():
            assert torch.equal(loaded.tensors[part][name], tensor)
            assert loaded.tensors[part][name].dtype == tensor.dtype


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    DAMAGE[damage](newest / name)
    with pytest.raises(DataError, match=name if damage != "flipped" or name != "manifest.json" else "step-00000020"):
        checkpoint.load(newest)
    skipped: list[str] = []
    found = checkpoint.newest(tmp_path, skipped.append)
    assert found is not None
    assert found.state["step"] == 10
    assert len(skipped) == 1
    assert "step-00000020" in skipped[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_named_and_the_one_before_is_used(name: str) -> None:
    skipped: list[str] = []
    with tempfile.TemporaryDirectory() as place:  # which, unlike those of pytest, other users may look into
        folder = Path(place)
        folder.chmod(0o755)
        save(folder, 10)
        file = save(folder, 20) / name
        with permission_denied(file):
            with pytest.raises(DataError, match=rf"{name} cannot be read \(Permission denied\)"):
                checkpoint.load(file.parent)
            found = checkpoint.newest(folder, skipped.append)
    assert found is not None
    assert found.state["step"] == 10
    assert name in skipped[0]


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["../elsewhere.safetensors"] = manifest["weights.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        checkpoint.load(path)


def test_a_save_that_was_cut_short_is_not_seen_and_is_cleared_away(tmp_path: Path) -> None:
    save(tmp_path, 10)
    draft = tmp_path / "step-00000020.tmp"
    draft.mkdir()
    (draft / "weights.safetensors").write_bytes(b"half")
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert found.state["step"] == 10
    checkpoint.tidy(tmp_path)
    assert not draft.exists()


def test_the_two_newest_whole_ones_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    checkpoint.prune(tmp_path)
    assert [path.name for path in checkpoint.step_folders(tmp_path)] == ["step-00000030", "step-00000040"]


def test_a_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    flip_a_bit(tmp_path / "step-00000030" / "weights.safetensors")
    checkpoint.prune(tmp_path)
    names = [path.name for path in checkpoint.step_folders(tmp_path)]
    assert names == ["step-00000010", "step-00000020", "step-00000030"]


def test_best_is_there_at_every_moment_of_being_replaced(tmp_path: Path) -> None:
    best = tmp_path / "best"
    checkpoint.save(best, TENSORS, {"step": 1})
    best.rename(tmp_path / "best.old")  # as a crash between the two renames leaves it
    assert checkpoint.load(checkpoint.best_path(tmp_path)).state["step"] == 1
    checkpoint.save(best, TENSORS, {"step": 2})
    assert checkpoint.load(checkpoint.best_path(tmp_path)).state["step"] == 2
    checkpoint.save(best, TENSORS, {"step": 3})
    assert checkpoint.load(checkpoint.best_path(tmp_path)).state["step"] == 3
    assert not (tmp_path / "best.old").exists()


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001"
    checkpoint.save(path, TENSORS, {"format_version": 99})
    with pytest.raises(DataError, match="format version 99"):
        checkpoint.load(path)
