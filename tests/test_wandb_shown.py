"""What W&B shows besides curves: real files, read back from what its real client has recorded."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from wandb_file import forget_who_is_logged_in, only_run, runs

from kws_dist.config import TrackingConfig
from kws_dist.tracking import HeardClip, Record, Wandb
from kws_dist.wandb_mirror import Checkpoints
from kws_dist.wandb_outbox import aliases_of, leave, waiting

OFFLINE = TrackingConfig(wandb="offline")
RECORD: Record = {"step": 7, "clips_seen": 448, "time_s": 1.0, "val/loss": 0.5}


@pytest.fixture(autouse=True)
def _stranger_to_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_who_is_logged_in(monkeypatch, tmp_path)


@pytest.fixture
def clip(tmp_path: Path) -> HeardClip:
    """A clip that a model got wrong."""
    samples = (8000 * np.sin(np.arange(16_000) / 9)).astype(np.int16)
    soundfile.write(tmp_path / "01.wav", samples, 16_000, subtype="PCM_16")
    return HeardClip(key="yes/a", word="yes", heard="no", probability=0.9, loss=2.5, path=tmp_path / "01.wav")


def checkpoint(folder: Path, step: int) -> Path:
    """Write what looks like a checkpoint to W&B."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(bytes([step]) * 1000)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    return folder


def table(run_dir: Path, entry: dict[str, Any]) -> dict[str, Any]:
    (path,) = run_dir.glob(f"wandb/offline-run-*/files/{entry['path']}")
    return json.loads(path.read_text())


def entry(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in row.items() if key.startswith(f"{name}.")}


def test_tags_and_notes_are_those_of_the_settings(tmp_path: Path) -> None:
    tracking = TrackingConfig(wandb="offline", project="words", tags=("a", "b c"), notes="Is wider better?")
    Wandb(tmp_path, tracking, config={}, warn=pytest.fail).finish(0, {})
    run = only_run(tmp_path)
    assert (run.project, run.tags, run.notes) == ("words", ["a", "b c"], "Is wider better?")


def test_what_is_not_set_is_left_to_wandbs_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_TAGS", "one,two")
    monkeypatch.setenv("WANDB_NOTES", "from outside")
    Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail).finish(0, {})
    run = only_run(tmp_path)
    assert (run.tags, run.notes) == (["one", "two"], "from outside")


def test_in_a_sweep_the_agent_says_which_run_of_which_project_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"SWEEP_ID": "sweep123", "RUN_ID": "trial456", "PROJECT": "theirs", "ENTITY": "team"}
    for name, value in said.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail).finish(0, {})
    run = only_run(tmp_path)
    assert (run.sweep_id, run.id, run.project, run.entity) == ("sweep123", "trial456", "theirs", "team")


def test_a_confusion_matrix_is_drawn_from_its_counts(tmp_path: Path) -> None:
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail)
    wandb.log(RECORD)
    wandb.log_confusion("val/confusion", ["yes", "no"], np.array([[3, 1], [0, 4]]))
    wandb.finish(0, {})
    run = only_run(tmp_path)
    (row,) = run.history
    assert row["_step"] == 7
    shown = table(tmp_path, entry(row, "val/confusion_table"))
    assert shown["columns"] == ["Actual", "Predicted", "nPredictions"]
    assert shown["data"] == [["yes", "yes", 3], ["yes", "no", 1], ["no", "yes", 0], ["no", "no", 4]]
    chart = run.config["_wandb.visualize.val/confusion"]
    assert chart["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"


def test_a_table_of_clips_holds_their_sound(tmp_path: Path, clip: HeardClip) -> None:
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail)
    wandb.log(RECORD)
    wandb.log_clips("test/worst_clips", [clip])
    wandb.finish(0, {})
    run = only_run(tmp_path)
    assert run.history[0]["test/worst_clips._type"] == "table-file"
    (artifact,) = run.artifacts
    shown = json.loads(artifact.files["test/worst_clips.table.json"].read_text())
    assert shown["columns"] == ["key", "word", "heard", "probability", "loss", "sound"]
    (cells,) = shown["data"]
    assert cells[:5] == ["yes/a", "yes", "no", 0.9, 2.5]
    assert cells[5]["_type"] == "audio-file"
    sound = artifact.files[cells[5]["path"]]
    assert sound.read_bytes() == clip.path.read_bytes()
    assert sound.is_relative_to(tmp_path), "what is to be uploaded lies in the run folder"


@pytest.mark.parametrize("shown", ["image", "clips"])
def test_what_cannot_be_shown_costs_a_warning_and_the_numbers_go_on(
    tmp_path: Path, clip: HeardClip, shown: str
) -> None:
    clip.path.unlink()
    warnings: list[str] = []
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=warnings.append)
    wandb.log(RECORD)
    if shown == "image":
        wandb.log_image("curves", tmp_path / "curves.png")
    else:
        wandb.log_clips("test/worst_clips", [clip])
    wandb.log({**RECORD, "step": 8})
    wandb.finish(0, {})
    (warning,) = warnings
    assert warning.startswith("W&B does not get ")
    assert [row["_step"] for row in only_run(tmp_path).history] == [7, 8]


def test_pictures_of_a_run_that_goes_on_are_not_sent_to_its_beginning(tmp_path: Path) -> None:
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail, start_step=500)
    wandb.log_confusion("val/confusion", ["yes"], np.array([[3]]))
    wandb.finish(0, {})
    assert [row["_step"] for row in only_run(tmp_path).history] == [500]


def test_the_last_checkpoints_are_versions_of_an_artifact_whatever_became_of_them(tmp_path: Path) -> None:
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail)
    for step, is_best in ((1, True), (2, True), (3, False), (4, False)):
        wandb.log({**RECORD, "step": step})
        path = checkpoint(tmp_path / "checkpoints" / f"step-{step}", step)
        wandb.log_checkpoint(path, ["best", "latest"] if is_best else ["latest"])
        shutil.rmtree(path)
    wandb.finish(0, {})
    artifacts = only_run(tmp_path).artifacts
    assert [(one.type, one.aliases, one.metadata) for one in artifacts] == [
        ("model", {"best", "latest"}, {"step": 2}),
        ("model", {"latest"}, {"step": 4}),
    ]
    assert len({one.name for one in artifacts}) == 1, "both are versions of one artifact"
    for artifact, step in zip(artifacts, (2, 4), strict=True):
        assert sorted(artifact.files) == ["state.json", "weights.safetensors"]
        assert artifact.files["weights.safetensors"].read_bytes() == bytes([step]) * 1000
    assert list((tmp_path / "wandb" / "outbox").iterdir()) == []


def test_a_checkpoint_without_a_state_costs_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=warnings.append)
    (checkpoint(tmp_path / "step-1", 1) / "state.json").unlink()
    wandb.log_checkpoint(tmp_path / "step-1", ["latest"])
    wandb.log(RECORD)
    wandb.finish(0, {})
    (warning,) = warnings
    assert "does not get a checkpoint" in warning
    assert only_run(tmp_path).exit_code == 0


def test_a_checkpoint_that_cannot_be_copied_costs_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=warnings.append)
    wandb.log_checkpoint(tmp_path / "not there", ["latest"])
    wandb.finish(0, {})
    (warning,) = warnings
    assert "W&B does not get the checkpoint not there" in warning


def test_a_client_that_hangs_fills_no_disk_with_checkpoints(tmp_path: Path) -> None:
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail)
    (client,) = [child for child in psutil.Process().children() if "kws_dist.wandb_mirror" in child.cmdline()]
    client.suspend()
    for step in range(1, 20):
        path = checkpoint(tmp_path / "checkpoint", step)
        wandb.log_checkpoint(path, ["best", "latest"] if step % 5 == 0 else ["latest"])
        shutil.rmtree(path)
    wandb.log_confusion("val/confusion", ["yes"], np.array([[3]]))
    left = waiting(tmp_path / "wandb" / "outbox")
    assert [aliases_of(folder) for folder in left] == [["best", "latest"], ["latest"]]
    assert [json.loads((folder / "state.json").read_text())["step"] for folder in left] == [15, 19]
    client.resume()
    wandb.finish(0, {})
    artifacts = [artifact for artifact in only_run(tmp_path).artifacts if artifact.type == "model"]
    assert [artifact.metadata["step"] for artifact in artifacts] == [15, 19]


class OnlineRun:
    """What the mirror needs of a run that uploads, for which there is no server here; takes real artifacts."""

    id, offline = "abcdefgh", False

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[str]]] = []

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self.sent.append((artifact.metadata["step"], aliases))


def test_online_a_checkpoint_is_sent_once_the_one_before_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    run, outbox = OnlineRun(), tmp_path / "outbox"
    checkpoints = Checkpoints(run, outbox, pytest.fail)
    for step in (1, 2, 3):
        leave(checkpoint(tmp_path / f"step-{step}", step), ["latest"], outbox)
        checkpoints.send_next()
    assert run.sent == [(1, ["latest"])]
    for copy in (tmp_path / "data" / "artifacts" / "staging").iterdir():  # as W&B does after an upload
        copy.unlink()
    checkpoints.send_next()
    checkpoints.send_next()
    assert run.sent == [(1, ["latest"]), (3, ["latest"])]
    leave(checkpoint(tmp_path / "step-4", 4), ["best", "latest"], outbox)
    checkpoints.send_all()
    assert run.sent[2:] == [(4, ["best", "latest"])]


def test_a_checkpoint_that_a_killed_client_left_is_sent_by_the_next(tmp_path: Path) -> None:
    leave(checkpoint(tmp_path / "step-1", 1), ["best", "latest"], tmp_path / "wandb" / "outbox")
    Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail).finish(0, {})
    (run,) = runs(tmp_path)
    assert [artifact.metadata for artifact in run.artifacts] == [{"step": 1}]


def test_waiting_checkpoints_take_no_room_of_their_own(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "step-1", 1)
    leave(path, ["latest"], tmp_path / "outbox")
    (waits,) = waiting(tmp_path / "outbox")
    assert (waits / "weights.safetensors").samefile(path / "weights.safetensors")


def test_disabled_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    wandb = Wandb(tmp_path / "run", TrackingConfig(), config={}, warn=pytest.fail)
    wandb.log_checkpoint(checkpoint(tmp_path / "step-1", 1), ["latest"])
    assert not (tmp_path / "run").exists()
