"""TensorBoard's event files, read back with TensorBoard's own reader."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kws_dist.tracking import HeardClip, Record, TensorBoard, Tracker


def record(step: int, loss: float) -> Record:
    return {"step": step, "clips_seen": step * 64, "time_s": 0.5, "train/loss": loss}


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "audio": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def text(events: EventAccumulator, name: str) -> str:
    (event,) = events.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_records_keep_their_names_and_steps(tmp_path: Path) -> None:
    with Tracker([TensorBoard(tmp_path, config={"seed": 3}, start_step=0)]) as tracker:
        tracker.log({**record(1, 0.5), "train/bad": float("nan"), "train/none": None, "val/n": np.int64(4)})
        tracker.log(record(2, 0.25))
        tracker.finish(0, {"test/accuracy": 0.75})
    assert scalars(tmp_path, "train/loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path, "clips_seen") == [(1, 64.0), (2, 128.0)]
    assert scalars(tmp_path, "val/n") == [(1, 4.0)]
    assert np.isnan(scalars(tmp_path, "train/bad")[0][1])
    assert scalars(tmp_path, "final/test/accuracy") == [(2, 0.75)]
    assert '"seed": 3' in text(read(tmp_path), "config")
    assert not {"step", "train/none"} & set(read(tmp_path).Tags()["scalars"])


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    with Tracker([TensorBoard(tmp_path, config={}, start_step=0)]) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log(record(step, 1.0))
    with Tracker([TensorBoard(tmp_path, config={}, start_step=2)]) as tracker:
        tracker.log(record(3, 2.0))
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_what_a_run_went_back_from_is_no_longer_shown(tmp_path: Path) -> None:
    with Tracker([TensorBoard(tmp_path, config={}, start_step=0)]) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log(record(step, 1.0))
        tracker.rewind(2)
        tracker.log(record(3, 2.0))
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_pictures_tables_and_sounds(tmp_path: Path) -> None:
    Figure(figsize=(1, 1)).savefig(tmp_path / "curves.png")
    samples = (8000 * np.sin(np.arange(16_000) / 9)).astype(np.int16)
    soundfile.write(tmp_path / "01.wav", samples, 16_000, subtype="PCM_16")
    clip = HeardClip(key="a|b", word="yes", heard="no", probability=0.9, loss=2.5, path=tmp_path / "01.wav")
    with Tracker([TensorBoard(tmp_path / "events", config={}, start_step=0)]) as tracker:
        tracker.log(record(5, 1.0))
        tracker.log_image("curves", tmp_path / "curves.png")
        tracker.log_confusion("val/confusion", ["yes", "no"], np.array([[3, 1], [0, 4]]))
        tracker.log_clips("test/worst_clips", [clip])
        tracker.log_checkpoint(tmp_path, ["latest"])
    events = read(tmp_path / "events")
    (picture,) = events.Images("curves")
    assert (picture.step, picture.width, picture.height) == (5, 100, 100)
    assert "| yes | 3 | 1 |\n| no | 0 | 4 |" in text(events, "val/confusion")
    assert "| a&#124;b | yes | no | 0.900 | 2.500 |" in text(events, "test/worst_clips")
    (sound,) = events.Audio("test/worst_clips/001 yes, heard as no")
    assert (sound.step, sound.sample_rate) == (5, 16_000)
    assert sound.length_frames == 16_000


def test_without_the_package_the_error_says_what_to_do(tmp_path: Path) -> None:
    """In a process where the package is not installed, as far as imports can tell."""
    code = """
import sys
from pathlib import Path
from kws_dist.config import TrackingConfig
from kws_dist.errors import UsageError
from kws_dist.tracking import TensorBoard, check_tracking
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorboard":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
try:
    TensorBoard(Path(sys.argv[1]), config={}, start_step=0)
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "pip install tensorboard" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["tensorboard", "wandb"])
def test_neither_mirror_is_loaded_where_it_is_not_asked_for(module: str) -> None:
    code = f"import sys, kws_dist.tracking; print({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
