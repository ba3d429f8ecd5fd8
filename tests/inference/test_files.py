"""Recordings in any format, rate and number of channels are heard; those that cannot be read are named."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import chirp
from own_recordings import Mode, mp3, without_count

from kws_dist import inference, recording
from kws_dist.errors import ClipError, UsageError
from kws_dist.inference import Predictor
from kws_dist.inference.files import listen
from kws_dist.recording import blocks_of, find, length_s, read


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


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.9, 30.0])
def test_an_mp3_that_does_not_say_how_long_it_is_is_heard_to_its_end(
    predictor: Predictor, tmp_path: Path, mode: Mode, rate_hz: int, seconds: float
) -> None:
    content = mp3(chirp(rate_hz, seconds), rate_hz, mode)
    (tmp_path / "a.mp3").write_bytes(without_count(content))
    (tmp_path / "b.mp3").write_bytes(content)
    bare, whole = listen(predictor, [tmp_path / "a.mp3", tmp_path / "b.mp3"], hop_s=0.25)
    assert (bare.fault, whole.fault) == ("", "")
    assert whole.seconds == seconds
    assert 0 < bare.seconds - seconds < 0.16  # the encoder's delay, and whole frames
    assert bare.windows[-1].end_s == pytest.approx(bare.seconds, abs=1e-3)


@pytest.mark.parametrize("most_checked_bytes", [1 << 26, 0], ids=["as any", "as a large one"])
def test_what_is_read_in_blocks_has_the_samples_that_it_has_with_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_checked_bytes: int
) -> None:
    monkeypatch.setattr(recording, "_MOST_CHECKED_BYTES", most_checked_bytes)
    content = mp3(chirp(44_100, 30.0), 44_100, "VARIABLE")
    heard = []
    for name, data in (("a.mp3", content), ("b.mp3", without_count(content)), ("c.mp3", content + content)):
        (tmp_path / name).write_bytes(data)
        blocks, rate_hz = blocks_of(tmp_path / name, length_s(tmp_path / name))
        heard.append(np.concatenate(list(blocks)))
        assert rate_hz == 44_100
        assert len(heard[-1]) == round(length_s(tmp_path / name) * rate_hz)
    expected, bare, twice = heard
    np.testing.assert_allclose(bare[576 : 576 + len(expected)], expected, rtol=0, atol=1e-6)
    again = twice[len(bare) + 529 + 1152 + 576 :]  # what each decoder leaves out, and the frame that counts the second
    np.testing.assert_allclose(again[2000 : len(expected)], expected[2000:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_a_wav_whose_header_was_never_finished_is_heard_to_its_end(
    predictor: Predictor, tmp_path: Path, length: int, rate_hz: int, seconds: float
) -> None:
    soundfile.write(tmp_path / "a.wav", chirp(rate_hz, seconds), rate_hz)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(content[:40] + length.to_bytes(4, "little") + content[44:])
    whole, unfinished = listen(predictor, [tmp_path / "a.wav", tmp_path / "b.wav"], hop_s=0.25)
    assert unfinished.seconds == seconds
    heard, expected = ([(one.start_s, one.end_s) for one in file.windows] for file in (unfinished, whole))
    assert heard == expected
    for one, other in zip(unfinished.windows, whole.windows, strict=True):
        np.testing.assert_allclose(one.prediction.scores, other.prediction.scores, rtol=1e-4)
    assert unfinished.windows[-1].end_s == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_a_file_that_gives_less_than_it_promised_is_named(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, chirp(16_000, seconds), 16_000)
    promised_s = length_s(path)
    assert len(read(path, promised_s)) == sum(map(len, blocks_of(path, promised_s)[0])) == round(seconds * 16_000)
    soundfile.write(path, chirp(16_000, seconds / 2), 16_000)
    with pytest.raises(ClipError, match=rf"a\.wav: only {seconds / 2:.2f} of {seconds:.2f} s can be read"):
        read(path, promised_s)
    with pytest.raises(ClipError, match=rf"a\.wav: only {seconds / 2:.2f} of {seconds:.2f} s can be read"):
        list(blocks_of(path, promised_s)[0])


def test_long_files_joined_end_to_end_are_heard_whole_or_named(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("a.mp3", "b.ogg", "c.flac", "d.wav"):
        soundfile.write(tmp_path / name, chirp(16_000, 4.0), 16_000)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() * 2)
    joined, *others = listen(predictor, find([tmp_path]), hop_s=0.25)
    assert 8 < joined.seconds < 8.25  # with the encoder's delay and whole frames in between
    assert joined.windows[-1].end_s == pytest.approx(joined.seconds, abs=1e-3)
    assert len(others) == 3
    for heard in others:
        assert heard.fault.startswith(f"{heard.path}: it holds several recordings one after another")


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
