"""Room impulse responses: every channel of every recording in a folder, at the clips' rate, or a clear error."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kws_dist.errors import DataError, UsageError
from kws_dist.room_responses import read_responses


def write(path: Path, samples: np.ndarray, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="PCM_24")


def impulse(samples: int, at: int) -> np.ndarray:
    made = np.zeros(samples)
    made[at] = 0.5
    return made


def test_recordings_of_all_folders_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.wav", impulse(100, 7))
    write(tmp_path / "a" / "room.flac", np.stack([impulse(80, 3), impulse(80, 5)], axis=1))
    (tmp_path / "notes.txt").write_text("no recording")
    responses = read_responses(tmp_path, sample_rate_hz=16_000, most_samples=1000)
    assert [(len(one), int(one.argmax())) for one in responses] == [(80, 3), (80, 5), (100, 7)]


def test_other_rates_are_resampled_and_what_no_clip_could_hear_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", impulse(4800, 480), rate_hz=48_000)
    (response,) = read_responses(tmp_path, sample_rate_hz=16_000, most_samples=200)
    assert int(response.abs().argmax()) == 160
    assert len(response) == 360
    assert response.dtype == torch.float64


def test_a_folder_that_is_not_there_or_holds_none_is_a_usage_error(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "rooms", "there is no such folder"), (tmp_path, "it holds no recording")):
        with pytest.raises(UsageError, match=said):
            read_responses(folder, sample_rate_hz=16_000, most_samples=100)


@pytest.mark.parametrize("kind", ["silent", "empty", "no recording"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "good.wav", impulse(50, 1))
    if kind == "no recording":
        (tmp_path / "odd.wav").write_bytes(b"RIFF, but not really")
    else:
        write(tmp_path / "odd.wav", np.zeros(50 if kind == "silent" else 0))
    with pytest.raises(DataError, match=r"odd\.wav"):
        read_responses(tmp_path, sample_rate_hz=16_000, most_samples=100)
