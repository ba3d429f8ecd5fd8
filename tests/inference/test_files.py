"""Recordings in any format, rate and number of channels are heard; those that cannot be read are named."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import chirp

from kws_dist import inference
from kws_dist.errors import UsageError
from kws_dist.inference import Predictor
from kws_dist.inference.files import listen
from kws_dist.recording import find


@pytest.fixture(scope="module")
def predictor(trained_run: Path) -> Predictor:
    return inference.load(trained_run, device="cpu")


@pytest.mark.parametrize("seconds", [0.5, 3.0])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "subtype", "rate_hz"),
    [
        ("a.wav", "PCM_16", 16_000),
        ("a.wav", "PCM_24", 44_100),
        ("a.wav", "FLOAT", 48_000),
        ("a.wav", "ULAW", 8_000),
        ("a.flac", "PCM_16", 22_050),
        ("a.ogg", "VORBIS", 32_000),
        ("a.opus", "OPUS", 48_000),
        ("a.mp3", "MPEG_LAYER_III", 44_100),
        ("a.aiff", "PCM_16", 11_025),
    ],
)
def test_a_file_is_heard_as_the_wave_in_it(
    predictor: Predictor, tmp_path: Path, name: str, subtype: str, rate_hz: int, channels: int, seconds: float
) -> None:
    path = tmp_path / name
    wave = np.stack([chirp(rate_hz, seconds)] * channels, axis=1)
    soundfile.write(path, wave, rate_hz, subtype=subtype, format="OGG" if name == "a.opus" else None)
    (heard,) = listen(predictor, [path], hop_s=0.25)
    assert heard.fault == ""
    assert heard.seconds == pytest.approx(seconds, abs=0.1)  # MP3 pads
    assert heard.is_long == (seconds > 1)
    stored, rate_hz = soundfile.read(path, always_2d=True)
    if seconds < 1:
        expected = predictor.predict(stored.T, rate_hz)
        np.testing.assert_allclose(heard.windows[0].prediction.scores, expected.scores, rtol=1e-3)
    else:
        assert heard.windows[0].start_s == 0
        assert heard.windows[-1].end_s == pytest.approx(heard.seconds, abs=1e-3)
        best = max(one.score for _, _, one in predictor.predict_long(stored.T, rate_hz))
        assert max(one.score for _, _, one in heard.windows) == pytest.approx(best, rel=1e-3)


def test_files_that_cannot_be_read_are_named_and_the_others_heard_in_order(
    predictor: Predictor, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", chirp(16_000), 16_000)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(whole[:5000])
    (tmp_path / "c.wav").write_bytes(b"")
    soundfile.write(tmp_path / "d.wav", np.zeros(0), 16_000)
    (tmp_path / "e.mp3").write_bytes(b"no sound at all" * 100)
    soundfile.write(tmp_path / "f.wav", np.full(8_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "g.wav", np.full(80_000, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "h.m4a").write_bytes(b"whatever")
    soundfile.write(tmp_path / "i.flac", chirp(16_000, 4.0), 16_000)
    flac = (tmp_path / "i.flac").read_bytes()
    (tmp_path / "j.flac").write_bytes(flac[: len(flac) // 2])
    soundfile.write(tmp_path / "k.ogg", chirp(16_000), 16_000)
    (tmp_path / "l.wav").mkdir()
    (tmp_path / "m.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "n.txt").write_text("not looked at")
    soundfile.write(tmp_path / "o.wav", 32_768 * chirp(16_000), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "p.wav", 32_768 * chirp(16_000, 4.0), 16_000, subtype="FLOAT")
    found = find([tmp_path])
    heard = {one.path.name: one for one in listen(predictor, found, hop_s=0.25)}
    assert list(heard) == [path.name for path in found]
    faults = {name: one.fault for name, one in heard.items() if one.fault}
    said = {
        "b.wav": "cut off", "c.wav": "empty", "d.wav": "no samples", "e.mp3": "not a recording", "f.wav": "not numbers",
        "g.wav": "not numbers", "h.m4a": "convert", "j.flac": "decoded", "o.wav": "in [-1, 1]", "p.wav": "in [-1, 1]",
    }  # fmt: skip
    assert faults.keys() == said.keys()
    for name, fault in faults.items():
        assert fault.startswith(str(tmp_path / name))
        assert said[name] in fault or "cut off" in fault
        assert "\n" not in fault
    assert [name for name, one in heard.items() if one.windows] == ["a.wav", "i.flac", "k.ogg"]


def test_folders_are_searched_and_files_named_twice_heard_once(tmp_path: Path) -> None:
    for name in ("b/c/x.WAV", "b/y.flac", "b/.hidden/z.wav", "b/._y.flac", "b/notes.txt", "a.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    asked = [tmp_path / "a.bin", tmp_path / "b", tmp_path / "b" / "y.flac"]
    assert [path.relative_to(tmp_path).as_posix() for path in find(asked)] == ["a.bin", "b/c/x.WAV", "b/y.flac"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no recordings"):
        find([tmp_path / "empty"])
    with pytest.raises(UsageError, match="no such file"):
        find([tmp_path / "nowhere"])
