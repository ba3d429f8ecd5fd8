"""What `SpeechCommands` promises about well-formed archives and folders."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import files, pack, read_all, tone, unpack, wav_file

from kws_dist.corpus.clip import NOISE_WORD
from kws_dist.corpus.layout import LIST_OF_SPLIT, which_set
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.errors import DataError, UsageError


def splits(source: SpeechCommands) -> Counter[str]:
    return Counter(clip.split for clip in source.clips)


@pytest.fixture(scope="module")
def real_source(real_data: Path) -> SpeechCommands:
    return SpeechCommands(real_data / "speech_commands_real10.tar.gz")


@pytest.mark.real_data
def test_the_real_archive_has_the_clips_that_its_readme_counts(real_source: SpeechCommands) -> None:
    source = real_source
    assert splits(source) == {"train": 4800, "val": 600, "test": 1389, "noise": 6}
    assert source.words == ("bed", "cat", "down", "happy", "left", "no", "right", "stop", "up", "yes")
    assert source.provenance["split_rule"] == "lists"
    speakers = {s: {c.speaker for c in source.clips if c.split == s} for s in ("train", "val", "test")}
    assert not speakers["train"] & speakers["val"]
    assert not (speakers["train"] | speakers["val"]) & speakers["test"]


@pytest.mark.real_data
def test_the_hash_rule_gives_the_official_split_of_every_real_clip(real_source: SpeechCommands) -> None:
    clips = [clip for clip in real_source.clips if clip.split != "noise"]
    assert [which_set(f"{clip.key}.wav") for clip in clips] == [clip.split for clip in clips]


def test_the_lists_in_the_archive_decide_the_split(tiny_archive: Path) -> None:
    source = SpeechCommands(tiny_archive)
    assert splits(source) == {"train": 21, "val": 6, "test": 9, "noise": 2}
    assert {c.speaker for c in source.clips if c.split == "val"} == {"00000000", "00000001"}


def test_without_lists_the_hash_rule_decides_and_keeps_each_speaker_in_one_split(tmp_path: Path) -> None:
    source = SpeechCommands(pack(tmp_path / "a.tar.gz", files(speakers=40, lists=False)))
    assert source.provenance["split_rule"] == "which_set"
    assert set(splits(source)) == {"train", "val", "test", "noise"}
    of_speaker = {(clip.speaker, clip.split) for clip in source.clips if clip.split != "noise"}
    assert len(of_speaker) == 40


def test_words_are_labelled_in_the_order_given_and_others_are_left_out(tiny_archive: Path) -> None:
    source = SpeechCommands(tiny_archive, words=["up", "no"])
    assert source.words == ("up", "no")
    assert {clip.word for clip in source.clips} == {"up", "no", NOISE_WORD}
    assert SpeechCommands(tiny_archive).words == ("no", "up", "yes")


@pytest.mark.parametrize("words", [["yes", "nope"], ["yes", "yes"], [], ["_background_noise_"]])
def test_words_that_cannot_be_had_are_a_usage_error_naming_the_flag(tiny_archive: Path, words: list[str]) -> None:
    with pytest.raises(UsageError, match="--words"):
        SpeechCommands(tiny_archive, words=words)


def test_a_missing_word_is_answered_with_the_words_there_are(tiny_archive: Path) -> None:
    with pytest.raises(UsageError, match=r"'nope'.*the words there are: no, up, yes"):
        SpeechCommands(tiny_archive, words=["nope"])


def test_read_yields_every_wanted_clip_once_with_its_exact_samples(tiny_archive: Path) -> None:
    source = SpeechCommands(tiny_archive)
    read = list(read_all(source).items())
    assert sorted(key for key, _ in read) == [clip.key for clip in source.clips]
    np.testing.assert_array_equal(dict(read)["no/00000003_nohash_0"], tone(15, n_samples=830))
    assert list(read_all(source, ["up/00000001_nohash_0"])) == ["up/00000001_nohash_0"]
    assert read_all(source, []) == {}


def test_a_folder_gives_the_same_clips_and_audio_as_the_archive(tiny_archive: Path, tmp_path: Path) -> None:
    archive, folder = SpeechCommands(tiny_archive), SpeechCommands(root=unpack(tmp_path / "f", files()))
    assert folder.clips == archive.clips
    keys = [clip.key for clip in archive.clips]
    of_archive, of_folder = read_all(archive, keys), read_all(folder, keys)
    assert all(np.array_equal(of_archive[key], of_folder[key]) for key in keys)


def test_keys_hold_only_safe_characters_and_noise_has_no_speaker(tiny_archive: Path) -> None:
    noise = [clip for clip in SpeechCommands(tiny_archive).clips if clip.split == "noise"]
    assert [clip.key for clip in noise] == ["_background_noise_/hum_0", "_background_noise_/hum_1"]
    assert {(clip.word, clip.speaker) for clip in noise} == {(NOISE_WORD, "")}


def test_two_names_that_make_one_key_are_an_error_naming_both(tmp_path: Path) -> None:
    wav = wav_file(tone(1))
    archive = pack(tmp_path / "a.tar.gz", {"yes/a b.wav": wav, "yes/a_b.wav": wav})
    with pytest.raises(DataError, match=r"'yes/a b.wav' and 'yes/a_b.wav'"):
        SpeechCommands(archive)


def test_files_that_are_no_recordings_are_ignored(tmp_path: Path) -> None:
    junk = {"README.md": b"x", "yes/notes.txt": b"x", "yes/._00000000_nohash_0.wav": b"x", ".cache/x.wav": b"x"}
    assert len(SpeechCommands(pack(tmp_path / "a.tar.gz", files() | junk)).clips) == 38


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"testing_list.txt": None}, "one is missing"),
        ({"testing_list.txt": b"yes/00000000_nohash_0.wav\n"}, "in both lists"),
        ({"testing_list.txt": b"\xff\xfe"}, "testing_list.txt is not a text file"),
        ({"testing_list.txt": b"other.wav\n", "validation_list.txt": b""}, "name none of the recordings"),
        ({"top/yes/00000000_nohash_0.wav": b""}, "is not <word>/<recording>.wav"),
    ],
)
def test_an_archive_that_contradicts_itself_is_an_error(
    tmp_path: Path, change: dict[str, bytes | None], says: str
) -> None:
    content = {name: data for name, data in (files() | change).items() if data is not None}
    with pytest.raises(DataError, match=says):
        SpeechCommands(pack(tmp_path / "a.tar.gz", content))


def test_an_archive_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recordings named"):
        SpeechCommands(pack(tmp_path / "a.tar.gz", {"README.md": b"hello"}))


def test_the_same_content_under_another_name_has_the_same_checksum(tiny_archive: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.tar.gz"
    renamed.write_bytes(tiny_archive.read_bytes())
    assert SpeechCommands(renamed).provenance["sha256"] == SpeechCommands(tiny_archive).provenance["sha256"]


def test_exactly_one_of_archive_and_root_must_be_given(tiny_archive: Path) -> None:
    for archive, root in [(None, None), (tiny_archive, tiny_archive.parent)]:
        with pytest.raises(UsageError, match="either --archive"):
            SpeechCommands(archive, root=root)


def test_which_set_is_the_published_rule() -> None:
    # One speaker of the official validation list; the folder and the repetition do not matter.
    assert which_set("bed/060cd039_nohash_1.wav") == "val"
    assert which_set("060cd039_nohash_0.wav") == which_set("bed/060cd039_nohash_7.wav")
    assert set(LIST_OF_SPLIT) == {"val", "test"}


def test_the_listing_of_a_folder_is_its_identity_and_its_state_sees_a_change_that_keeps_every_size(
    tmp_path: Path,
) -> None:
    folder = unpack(tmp_path / "f", files())
    before = SpeechCommands(root=folder)
    (folder / "notes.txt").write_text("no recording")
    clip = folder / "yes" / "00000003_nohash_0.wav"
    other = SpeechCommands(root=folder)
    assert (other.provenance, other.state) == (before.provenance, before.state)
    clip.write_bytes(clip.read_bytes()[:-1] + b"\x55")
    changed = SpeechCommands(root=folder)
    assert changed.provenance == before.provenance
    assert changed.state != before.state
    clip.write_bytes(clip.read_bytes()[:-2])
    assert SpeechCommands(root=folder).provenance != before.provenance
