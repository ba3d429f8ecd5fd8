"""What clips of silence promise: a stretch of the noise for each split, and the same audio everywhere and always."""

import hashlib
import json
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_corpus import files, pack, read_all, tone, unpack, wav_file

from kws_dist.corpus.clip import NOISE_WORD, SILENCE_WORD, SPLITS, UNKNOWN_WORD, Samples
from kws_dist.corpus.silence import CLIP_SAMPLES, stretch, volume, windows
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import ClipError, DataError, UsageError

SHORT, LONG = f"{NOISE_WORD}/short.wav", f"{NOISE_WORD}/long.wav"
LONG_SAMPLES = 200_003


def content(**changed: bytes) -> dict[str, bytes]:
    """A corpus with a noise that is long enough for all splits, and one that is so for training alone."""
    noise = {SHORT: wav_file(tone(1, 30_000)), LONG: wav_file(tone(2, LONG_SAMPLES))}
    return files(noises=0, speakers=20) | noise | {f"{NOISE_WORD}/{name}.wav": data for name, data in changed.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SpeechCommands:
    return SpeechCommands(pack(tmp_path_factory.mktemp("silence") / "a.tar.gz", content()), silence=True)


def keys(source: SpeechCommands) -> list[str]:
    return [clip.key for clip in source.clips if clip.word == SILENCE_WORD]


def audio(source: SpeechCommands) -> dict[str, Samples]:
    return read_all(source, keys(source))


LENGTHS = st.lists(st.integers(0, 30 * CLIP_SAMPLES), min_size=1, max_size=6)


@given(LENGTHS, st.integers(1, 400), st.integers(1, 400), st.integers(1, 400))
def test_no_sample_of_noise_is_in_windows_of_two_splits(lengths: list[int], train: int, val: int, test: int) -> None:
    spans: list[tuple[int, int, int, str]] = []
    for split, count in zip(SPLITS, (train, val, test), strict=True):
        for recording, window in windows(lengths, split, count):
            assert len(window) == CLIP_SAMPLES
            assert 0 <= window.start < window.stop <= lengths[recording]
            if split != "train":  # nothing of all that training draws from
                assert window.start >= stretch(lengths[recording], "train").stop
            spans.append((recording, window.start, window.stop, split))
    for one, other in pairwise(sorted(spans)):
        if one[0] == other[0] and one[3] != other[3]:
            assert one[2] <= other[1]


@given(st.integers(0, 1 << 40))
def test_the_stretches_of_a_recording_are_all_of_it_in_order(samples: int) -> None:
    parts = [stretch(samples, split) for split in SPLITS]
    assert [parts[0].start, parts[1].start, parts[2].start] == [0, parts[0].stop, parts[1].stop]
    assert parts[2].stop == samples
    for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        assert abs(len(part) - share * samples) <= 1


@given(LENGTHS, st.sampled_from(SPLITS), st.integers(1, 300))
def test_windows_are_evenly_spaced_over_the_stretches_long_enough(lengths: list[int], split: str, count: int) -> None:
    room = [max(len(stretch(samples, split)) - CLIP_SAMPLES + 1, 0) for samples in lengths]
    cut = windows(lengths, split, count)
    assert len(cut) == (count if any(room) else 0)
    before = np.cumsum([0, *room])
    places = [int(before[i]) + window.start - stretch(lengths[i], split).start for i, window in cut]
    assert all(abs(b - a - sum(room) / count) <= 1 for a, b in pairwise(places))
    for number, there in enumerate(room):
        share = count * there / max(sum(room), 1)
        assert abs(sum(i == number for i, _ in cut) - share) <= 1


def test_a_window_and_a_volume_stay_what_they_are() -> None:
    """A change would be other silence, so another test set."""
    assert windows([160_000, 400_000], "test", 3) == [
        (1, range(363_999, 379_999)),
        (1, range(372_000, 388_000)),
        (1, range(380_000, 396_000)),
    ]
    assert volume("_silence_/val-000123") == 0.04849342810152635


def test_volumes_are_uniform() -> None:
    counts = Counter(int(10 * volume(f"_silence_/test-{i:06d}")) for i in range(4000))
    assert set(counts) == set(range(10))
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 35  # 9 degrees of freedom


def test_each_split_has_a_tenth_as_many_clips_of_silence_as_of_words(source: SpeechCommands) -> None:
    words = Counter(clip.split for clip in source.clips if clip.word not in (SILENCE_WORD, NOISE_WORD))
    assert words == {"train": 45, "val": 6, "test": 9}
    silence = [clip for clip in source.clips if clip.word == SILENCE_WORD]
    assert Counter(clip.split for clip in silence) == {"train": 5, "val": 1, "test": 1}
    assert keys(source)[0] == "_silence_/test-000000"
    assert source.words == (SILENCE_WORD, "no", "up", "yes")
    assert {clip.speaker for clip in silence} == {""}


def test_silence_is_a_window_of_the_noise_at_its_volume_and_noise_is_only_what_training_may_hear(
    source: SpeechCommands,
) -> None:
    read = read_all(source)
    long, short = tone(2, LONG_SAMPLES), tone(1, 30_000)
    np.testing.assert_array_equal(read[LONG[:-4]], long[: LONG_SAMPLES * 8 // 10])
    np.testing.assert_array_equal(read[SHORT[:-4]], short[: 30_000 * 8 // 10])
    for split, count in (("train", 5), ("val", 1), ("test", 1)):
        for number, (recording, window) in enumerate(windows([LONG_SAMPLES, 30_000], split, count)):
            key = f"_silence_/{split}-{number:06d}"
            wanted = np.rint((long, short)[recording][window.start : window.stop] * volume(key))
            assert read[key].dtype == np.int16
            np.testing.assert_array_equal(read[key], wanted)
    assert any(read[key].any() for key in keys(source))


def test_without_silence_noise_is_whole(tmp_path: Path) -> None:
    whole = read_all(SpeechCommands(pack(tmp_path / "a.tar.gz", content())), [LONG[:-4]])
    np.testing.assert_array_equal(whole[LONG[:-4]], tone(2, LONG_SAMPLES))


def same(a: Mapping[str, Samples], b: Mapping[str, Samples]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_silence_is_the_same_in_any_order_of_files_and_of_reading(source: SpeechCommands, tmp_path: Path) -> None:
    backwards = dict(reversed(content().items()))
    assert same(audio(SpeechCommands(pack(tmp_path / "b.tar.gz", backwards), silence=True)), audio(source))
    folder = SpeechCommands(root=unpack(tmp_path / "f", content()), silence=True)
    assert same(read_all(folder, keys(source)[::-1]), audio(source))
    one = read_all(SpeechCommands(root=tmp_path / "f", silence=True), keys(source)[2:3])
    assert same(one, {key: audio(source)[key] for key in one})


IN_ANOTHER_PROCESS = """
import hashlib, json, pathlib, pickle, sys
source = pickle.loads(sys.stdin.buffer.read())
print(json.dumps({key: hashlib.sha256(source.read(key).tobytes()).hexdigest() for key in sys.argv[1:]}))
"""


def test_another_process_reads_the_same_silence_and_gets_no_audio_with_the_source(
    source: SpeechCommands, tmp_path: Path
) -> None:
    with source.staged(keys(source), tmp_path):
        here = {key: hashlib.sha256(source.read(key).tobytes()).hexdigest() for key in keys(source)}
        packed = pickle.dumps(source)
        there = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, *keys(source)], input=packed, capture_output=True, check=True
        )
    assert json.loads(there.stdout) == here
    assert len(packed) < 2 * LONG_SAMPLES / 10


def test_noise_too_short_is_an_error_that_says_how_long_it_must_be(tmp_path: Path) -> None:
    short = {name: data for name, data in content().items() if name != LONG}
    source = SpeechCommands(pack(tmp_path / "a.tar.gz", short), silence=True)
    assert len(read_all(source, ["_silence_/train-000000"])) == 1  # 80 % of it are long enough
    with pytest.raises(DataError, match=r"1.88 s; _silence_ for val is cut from one of at least 10 s") as caught:
        read_all(source, ["_silence_/val-000000"])
    assert not isinstance(caught.value, ClipError)  # no other clip of silence would fare better


def test_without_noise_there_is_no_silence(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", files(noises=0))
    with pytest.raises(UsageError, match="_background_noise_: no recordings in it"):
        SpeechCommands(archive, silence=True)
    assert SpeechCommands(archive).words == ("no", "up", "yes")


def test_a_damaged_noise_recording_is_rejected_itself_and_silence_done_without_it(
    source: SpeechCommands, tmp_path: Path
) -> None:
    damaged = SpeechCommands(pack(tmp_path / "a.tar.gz", content(broken=wav_file(tone(3, 99))[:60])), silence=True)
    assert same(audio(damaged), audio(source))
    with pytest.raises(ClipError, match=r"broken.wav: cut off"):
        read_all(damaged, [f"{NOISE_WORD}/broken"])


@pytest.mark.real_data
def test_the_real_noise_makes_silence_for_every_split(real_data: Path) -> None:
    words = ["yes", "no", "up", "down", "left", "right", "stop"]
    source = SpeechCommands(real_data / "speech_commands_real10.tar.gz", words=words, unknown="rule", silence=True)
    counts = Counter((clip.split, clip.word) for clip in source.clips)
    assert source.words == (SILENCE_WORD, UNKNOWN_WORD, *words)
    for split in SPLITS:
        keywords = sum(counts[split, word] for word in words)
        assert counts[split, SILENCE_WORD] == counts[split, UNKNOWN_WORD] == (keywords + 9) // 10
    assert source.provenance["notes"] == []
    read = read_all(source, keys(source))
    assert {len(samples) for samples in read.values()} == {CLIP_SAMPLES}
    assert len({samples.tobytes() for samples in read.values()}) == len(read)
