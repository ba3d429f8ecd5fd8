"""What `open_folder` promises about a user's own recordings, however they were put into folders."""

import gzip
import io
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from own_recordings import encoded, mp3, sine, without_count, word_files, zipped
from tiny_corpus import pack, read_all, tone, unpack, wav_file

from kws_dist.corpus.clip import NOISE_WORD, Clip
from kws_dist.corpus.folder import open_folder
from kws_dist.corpus.recordings import Recordings
from kws_dist.errors import ClipError, DataError, UsageError
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import write_dataset

SOUND = wav_file(tone(1))
SECOND = tone(2, n_samples=16_000)


def counts(source: Recordings) -> Counter[str]:
    return Counter(clip.split for clip in source.clips)


def reasons(source: Recordings) -> dict[str, str]:
    return {row.name: row.reason for row in source.rejected}


def folder(path: Path, content: dict[str, bytes], **options: object) -> Recordings:
    return open_folder(unpack(path / "mine", content), **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.real_data
def test_the_real_zip_of_600_digits_is_divided_by_word(real_data: Path) -> None:
    source = open_folder(real_data / "my_digits.zip", long="crop")
    assert source.words == ("eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero")
    assert counts(source) == {"train": 480, "val": 60, "test": 60}
    assert set(Counter((clip.word, clip.split) for clip in source.clips).values()) == {48, 6}
    assert source.provenance["conversions"] == {
        "resampled": 600, "mixed_down": 0, "cropped": 2, "windows": 0, "speakers": None,
    }  # fmt: skip
    assert source.rejected == ()
    heard = read_all(source, [clip.key for clip in source.clips[::20]])
    assert all(3000 < len(samples) <= 16_000 for samples in heard.values())
    assert all(np.abs(samples.astype(int)).max() > 200 for samples in heard.values())


@pytest.mark.real_data
def test_the_two_speakers_of_the_real_zip_are_kept_apart(real_data: Path) -> None:
    root, speaker_from = real_data / "my_digits.zip", "^([a-z]+)_"
    source = open_folder(root, long="crop", speaker_from=speaker_from, split="50/0/50")
    assert {(clip.speaker, clip.split) for clip in source.clips} in (
        {("jackson", "train"), ("theo", "test")},
        {("jackson", "test"), ("theo", "train")},
    )
    assert counts(source) == {"train": 300, "test": 300}
    assert source.provenance["conversions"]["speakers"] == 2
    with pytest.raises(UsageError, match=r"2 speakers cannot fill 3 splits.*pass --split 50/0/50"):
        open_folder(root, long="crop", speaker_from=speaker_from)
    with pytest.raises(
        UsageError, match=r"--long error: 2 of 600 recordings are longer than a clip of 1 s, e\.g\. .*nine"
    ):
        open_folder(root, long="error")


def test_a_folder_a_zip_and_a_tar_hold_the_same_clips_and_audio(tmp_path: Path) -> None:
    content = word_files() | {"_background_noise_/hum.wav": wav_file(tone(9, 40_000))}
    sources = [
        folder(tmp_path, content),
        open_folder(zipped(tmp_path / "a.zip", {f"top/{name}": data for name, data in content.items()})),
        open_folder(pack(tmp_path / "a.tar.gz", {f"some/top/{name}": data for name, data in content.items()})),
    ]
    heard = [read_all(source) for source in sources]
    assert sources[0].clips == sources[1].clips == sources[2].clips
    assert counts(sources[0]) == {"train": 16, "val": 2, "test": 2, "noise": 1}
    for key, samples in heard[0].items():
        np.testing.assert_array_equal(samples, heard[1][key])
        np.testing.assert_array_equal(samples, heard[2][key])


def test_a_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    source = open_folder(zipped(tmp_path / "a.zip", word_files()))
    sent = pickle.loads(pickle.dumps(source))
    assert sent.clips == source.clips
    np.testing.assert_array_equal(sent.read("yes/bob_0"), source.read("yes/bob_0"))


def test_every_format_and_rate_becomes_clips_of_16_khz(tmp_path: Path) -> None:
    stereo = np.stack([sine(rate_hz=44_100), sine(rate_hz=44_100)], axis=1)
    content = {
        "yes/a.wav": encoded(sine(rate_hz=8000), 8000, "WAV", "PCM_U8"),
        "yes/b.FLAC": encoded(stereo, 44_100, "FLAC", "PCM_24"),
        "yes/c.ogg": encoded(sine(rate_hz=48_000), 48_000, "OGG", "OPUS"),
        "yes/d.mp3": encoded(sine(rate_hz=22_050), 22_050, "MP3", "MPEG_LAYER_III"),
    }
    source = folder(tmp_path, content, split="100/0/0")
    assert source.provenance["conversions"]["resampled"] == 4
    assert source.provenance["conversions"]["mixed_down"] == 1
    for samples in read_all(source).values():
        assert len(samples) == 16_000
        assert np.sqrt(np.mean((samples[4000:12_000] / 32_768) ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.04)


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "val": "val", "test": "test"},
        {"Training": "train", "dev": "val", "testing": "test"},
        {"test": "test"},
    ],
)
def test_folders_called_like_splits_are_splits(tmp_path: Path, names: dict[str, str]) -> None:
    content = {f"my set/{name}/{word}/a.wav": SOUND for name in names for word in ("no", "yes")}
    source = folder(tmp_path, content | {"my set/_background_noise_/hum.wav": SOUND})
    assert {clip.split for clip in source.clips} == {*names.values(), "noise"}
    assert source.words == ("no", "yes")
    assert source.provenance["split_rule"] == "folders"
    with pytest.raises(UsageError, match=r"--split 50/0/50: .* is already divided by its folders; leave it out"):
        open_folder(tmp_path / "mine", split="50/0/50")


def test_words_may_be_called_like_splits(tmp_path: Path) -> None:
    source = folder(tmp_path, word_files(("test", "train", "yes"), each=4), split="50/0/50")
    assert source.words == ("test", "train", "yes")


def test_split_folders_beside_word_folders_are_an_error_naming_both(tmp_path: Path) -> None:
    content = {"train/yes/a.wav": SOUND, "test/yes/a.wav": SOUND, "no/a.wav": SOUND}
    with pytest.raises(UsageError, match=r"--root .*mine: no/ beside test/, train/; put"):
        folder(tmp_path, content)


def test_a_word_that_a_split_lacks_is_named_with_the_split(tmp_path: Path) -> None:
    content = {"train/yes/a.wav": SOUND, "train/no/a.wav": SOUND, "test/yes/a.wav": SOUND}
    with pytest.raises(UsageError, match=r"the word 'no' has recordings in train and none in test"):
        folder(tmp_path, content)
    assert open_folder(tmp_path / "mine", words=["yes"]).words == ("yes",)


def test_a_word_of_which_nothing_can_be_used_in_a_split_is_missing_there(tmp_path: Path) -> None:
    content = {"train/yes/a.wav": SOUND, "test/yes/a.wav": SOUND[:-9], "train/no/a.wav": SOUND, "test/no/a.wav": SOUND}
    with pytest.raises(UsageError, match=r"the word 'yes' has recordings in train and none in test"):
        folder(tmp_path, content)


def test_a_speaker_in_two_given_splits_is_counted(tmp_path: Path) -> None:
    content = {f"{split}/yes/{who}.wav": SOUND for split, who in [("train", "ann"), ("test", "ann"), ("test", "bob")]}
    source = folder(tmp_path, content, speaker_from="^[a-z]+")
    assert source.provenance["speakers_in_several_splits"] == 1


@pytest.mark.parametrize(("pattern", "speakers"), [("^([a-z]+)_", {"ann", "bob"}), ("ann|bob", {"ann", "bob"})])
def test_the_speaker_is_found_in_the_file_name_and_kept_in_one_split(
    tmp_path: Path, pattern: str, speakers: set[str]
) -> None:
    source = folder(tmp_path, word_files(), speaker_from=pattern, split="50/0/50")
    splits_of = defaultdict[str, set[str]](set)
    for clip in source.clips:
        splits_of[clip.speaker].add(clip.split)
    assert set(splits_of) == speakers
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_the_speaker_may_be_a_folder_below_the_word(tmp_path: Path) -> None:
    content = {f"yes/{who}/{i}/a.wav": SOUND for who in ("ann", "bob") for i in range(2)}
    source = folder(tmp_path, content, words=["yes"], speaker_from="^([^/]+)/", split="50/0/50")
    assert {clip.speaker for clip in source.clips} == {"ann", "bob"}
    assert {clip.word for clip in source.clips} == {"yes"}


def test_files_without_a_speaker_are_an_error_with_examples(tmp_path: Path) -> None:
    content = word_files() | {f"yes/{i}.wav": SOUND for i in range(5)}
    with pytest.raises(
        UsageError, match=r"finds no speaker in 5 recordings, e\.g\. yes/0\.wav, yes/1\.wav, yes/2\.wav;"
    ):
        folder(tmp_path, content, speaker_from="^([a-z]+)_")
    with pytest.raises(UsageError, match=r"--speaker_from '\(': not a regular expression"):
        open_folder(tmp_path / "mine", speaker_from="(")


def test_noise_is_kept_whole_and_has_neither_speaker_nor_split(tmp_path: Path) -> None:
    content = word_files() | {"_background_noise_/deep/down/hum.wav": wav_file(tone(5, 50_000))}
    source = folder(tmp_path, content, speaker_from="ann|bob", split="50/0/50")
    (noise,) = [clip for clip in source.clips if clip.split == "noise"]
    assert (noise.word, noise.speaker) == (NOISE_WORD, "")
    np.testing.assert_array_equal(source.read(noise.key), tone(5, 50_000))


def test_special_words_come_first_and_the_others_sorted_or_as_asked(tmp_path: Path) -> None:
    content = word_files(("zero", "_unknown_", "one", "_silence_"), each=4)
    source = folder(tmp_path, content, split="50/0/50")
    assert source.words == ("_silence_", "_unknown_", "one", "zero")
    chosen = open_folder(tmp_path / "mine", words=["zero", "one"], split="50/0/50")
    assert chosen.words == ("zero", "one")
    assert {clip.word for clip in chosen.clips} == {"zero", "one"}
    assert chosen.provenance["recordings_of_other_words"] == 8
    with pytest.raises(UsageError, match=r"--words: no recordings of 'two' in .*: _silence_, _unknown_, one, zero"):
        open_folder(tmp_path / "mine", words=["two"])


def test_words_in_any_script_have_keys_of_their_own(tmp_path: Path) -> None:
    content = word_files(("да", "нет", "你好", "u\u0308ben"), each=3)
    source = folder(tmp_path, content, split="1/1/1")
    assert source.words == ("\u00fcben", "да", "нет", "你好")
    assert len({clip.key for clip in source.clips}) == 12
    assert all(clip.key.isascii() for clip in source.clips)


def test_what_is_no_recording_is_ignored_and_what_cannot_be_used_is_listed_with_its_reason(tmp_path: Path) -> None:
    ignored = {"README.md": b"x", "yes/notes.txt": b"x", "yes/._a.wav": b"x", "__MACOSX/yes/a.wav": b"x"}
    left_out = {
        "stray.wav": SOUND,
        "yes/phone.m4a": b"x",
        "yes/garbage.wav": b"hello",
        "yes/empty.wav": b"",
        "yes/cut.wav": SOUND[:-100],
        "no/nothing.flac": encoded(np.zeros(0), kind="FLAC"),
        f"{'long' * 17}/a.wav": SOUND,
    }
    source = folder(tmp_path, word_files() | ignored | left_out)
    assert reasons(source) == {
        "stray.wav": "it lies in no word's folder",
        "yes/phone.m4a": ".m4a files are not read; convert it, e.g. ffmpeg -i phone.m4a phone.wav",
        "yes/garbage.wav": "not a recording that can be read (Format not recognised)",
        "yes/empty.wav": "not a recording that can be read (Format not recognised)",
        "yes/cut.wav": "cut off after 750 of 800 samples",
        "no/nothing.flac": reasons(source)["no/nothing.flac"],
        f"{'long' * 17}/a.wav": "the word 'longlonglonglonglong'... is longer than 64 characters",
    }
    assert {row.name: row.word for row in source.rejected}["yes/cut.wav"] == "yes"
    assert len(source.clips) == 20


def test_files_that_cannot_be_opened_are_listed(tmp_path: Path) -> None:
    unpack(tmp_path / "mine", word_files())
    (tmp_path / "mine/yes/gone.wav").symlink_to("nowhere")
    (tmp_path / "mine/yes/loop.wav").symlink_to("loop.wav")
    (tmp_path / "mine/no/loop").symlink_to("../no")
    (tmp_path / "mine/yes").joinpath("caf\udce9.wav").write_bytes(SOUND)
    source = open_folder(tmp_path / "mine")
    assert reasons(source) == {
        "yes/caf\\xe9.wav": "its name is not UTF-8 or cannot be printed",
        "yes/gone.wav": "there is no such file",
        "yes/loop.wav": "there is no such file",
    }


def test_samples_that_are_not_numbers_are_refused_by_name_when_they_are_read(tmp_path: Path) -> None:
    bad = encoded(np.array([0.1, np.nan]), subtype="FLOAT")
    source = folder(tmp_path, word_files() | {"yes/nan.wav": bad})
    with pytest.raises(ClipError, match=r"yes/nan\.wav: it holds samples that are not numbers"):
        source.read("yes/nan")


LONG = np.concatenate([tone(1, 20_000) // 50, tone(2, 16_000), tone(3, 9_000) // 50])


def test_a_long_recording_is_an_error_if_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 of 21 recordings .* e\.g\. yes/long\.wav \(2\.81 s\); pass --long crop"):
        folder(tmp_path, word_files() | {"yes/long.wav": wav_file(LONG)}, long="error")
    assert len(open_folder(tmp_path / "mine", clip_seconds=3.0).clips) == 21


def test_crop_keeps_the_loudest_second(tmp_path: Path) -> None:
    source = folder(tmp_path, word_files() | {"yes/long.wav": wav_file(LONG)}, long="crop")
    assert source.provenance["conversions"]["cropped"] == 1
    np.testing.assert_array_equal(source.read("yes/long"), LONG[20_000:36_000])


def test_windows_cover_everything_in_one_split(tmp_path: Path) -> None:
    source = folder(tmp_path, word_files() | {"yes/long.wav": wav_file(LONG)}, long="window")
    windows = [clip for clip in source.clips if clip.key.startswith("yes/long-")]
    assert [clip.key for clip in windows] == ["yes/long-0-1000ms", "yes/long-1812-2812ms", "yes/long-906-1906ms"]
    assert len({clip.split for clip in windows}) == 1
    heard = [read_all(source)[clip.key] for clip in windows]
    assert {len(samples) for samples in heard} == {16_000}
    starts = [round(int(clip.key.split("-")[1]) * 16) for clip in windows]
    covered = np.zeros(len(LONG), bool)
    for start, samples in zip(starts, heard, strict=True):
        near = next(
            s for s in range(start - 16, start + 17) if s >= 0 and np.array_equal(LONG[s : s + 16_000], samples)
        )
        covered[near : near + 16_000] = True
    assert covered.all()
    assert source.provenance["conversions"]["windows"] == 3


def test_a_recording_of_exactly_a_clip_is_not_long(tmp_path: Path) -> None:
    content = {"yes/a.wav": wav_file(SECOND), "yes/b.wav": encoded(sine(1.0, rate_hz=44_100), 44_100)}
    source = folder(tmp_path, content, split="100/0/0")
    assert [len(samples) for samples in read_all(source).values()] == [16_000, 16_000]


@pytest.mark.parametrize("content", [{}, {"README.md": b"x"}, {"a.wav": SOUND}, {"_background_noise_/a.wav": SOUND}])
def test_a_folder_without_recordings_of_words_says_how_it_should_be(tmp_path: Path, content: dict[str, bytes]) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match=r"--root .*mine: no recordings to use: .*like yes/anything\.wav"):
        folder(tmp_path, content)


def test_a_root_that_is_nothing_of_the_kind_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--root .*nowhere: there is no such folder or archive"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07" + bytes(300))
    with pytest.raises(UsageError, match=r"--root .*a\.rar: neither a folder nor a \.zip.*unpack it"):
        open_folder(tmp_path / "a.rar")


def test_a_damaged_archive_is_a_data_error(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.tar.gz", word_files()).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(packed[:-50])
    with pytest.raises(DataError, match=r"a\.tar\.gz: not a complete"):
        open_folder(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar").write_bytes(gzip.decompress(packed))
    assert len(open_folder(tmp_path / "a.tar").clips) == 20


def test_the_listing_order_changes_nothing(tmp_path: Path) -> None:
    content = word_files(each=30)

    def clips(path: str, names: list[str]) -> tuple[Clip, ...]:
        return open_folder(zipped(tmp_path / path, {name: content[name] for name in names})).clips

    assert clips("a.zip", list(content)) == clips("b.zip", list(reversed(content)))


def test_a_recording_changed_in_place_changes_the_state(tmp_path: Path) -> None:
    before = folder(tmp_path, word_files())
    (tmp_path / "mine/yes/bob_0.wav").write_bytes(wav_file(tone(77, n_samples=400)))
    after = open_folder(tmp_path / "mine")
    assert before.provenance == after.provenance
    assert before.state != after.state


def test_keys_that_would_be_the_same_are_kept_apart(tmp_path: Path) -> None:
    same = {"yes/a.wav": SOUND, "yes/a.flac": encoded(tone(1), kind="FLAC"), "yes/a b.wav": SOUND, "yes/a_b.wav": SOUND}
    assert len({clip.key for clip in folder(tmp_path, same, split="100/0/0").clips}) == 4


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_length_that_is_none_names_the_flag(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="--clip_seconds"):
        folder(tmp_path, word_files(), clip_seconds=seconds)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_archive_that_is_cut_anywhere_is_one_sentence(tmp_path: Path, tenths: int) -> None:
    archive = pack(tmp_path / "a.tar.gz", word_files())
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) * tenths // 10])
    with pytest.raises(DataError, match=r"a\.tar\.gz: not a complete \.tar\.gz archive"):
        open_folder(archive)


def test_names_of_any_length_have_keys_that_fit_into_a_shard(tmp_path: Path) -> None:
    long = [f"yes/{'Aufnahme von Tante Erika ' * 8}({i}).wav" for i in range(3)] + [f"yes/{'x' * 200}.wav"]
    source = folder(tmp_path, word_files() | {name: wav_file(tone(90 + i)) for i, name in enumerate(long)})
    plan = make_plan(source, shard_clips=100, seed=0)
    written = write_dataset(source, plan, tmp_path / "out", task="", command=[])
    assert sum(written.meta.clips.values()) == len(word_files()) + 4


def test_a_word_of_which_nothing_can_be_used_is_an_error_and_not_a_smaller_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recording of 'stop' can be used, e\.g\. stop/1\.m4a"):
        folder(tmp_path, word_files() | {"stop/1.m4a": b"...."})


def test_a_recording_that_is_too_long_to_search_is_left_out_before_the_splits_are_made(tmp_path: Path) -> None:
    hour = io.BytesIO()
    soundfile.write(hour, np.zeros(3600 * 16_000, np.int16), 16_000, format="FLAC")
    source = folder(tmp_path, word_files() | {"yes/hour.flac": hour.getvalue()})
    assert [(row.name, row.reason) for row in source.rejected] == [
        ("yes/hour.flac", "it lasts 3,600 s; cut it into recordings of 524 s, or pass --long window")
    ]


def test_mp3s_that_do_not_say_how_long_they_are_are_whole_clips_and_cut_ones_are_left_out(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).standard_normal(44_100 * 9 // 10) * np.linspace(0, 0.2, 44_100 * 9 // 10)
    content = mp3(wave, 44_100, "VARIABLE")
    named = {f"{word}/{i}.mp3": content if i % 2 else without_count(content) for word in "ab" for i in range(10)}
    cut = {"a/cut.mp3": without_count(content)[:-3], "b/cut.mp3": content[: len(content) // 2]}
    joined = {"b/joined.wav": SOUND + SOUND[:44] + SOUND[44:]}
    source = folder(tmp_path, named | cut | joined)
    assert {name for name in reasons(source) if "cut off" in reasons(source)[name]} == cut.keys()
    assert len(source.clips) == 21
    for clip in source.clips:
        if "joined" in clip.key:
            with pytest.raises(ClipError, match=r"b/joined\.wav: it holds several recordings"):
                read_all(source, [clip.key])
        else:
            samples = read_all(source, [clip.key])[clip.key]
            assert 14_400 <= len(samples) <= 16_000
            assert np.abs(samples[13_000:14_000]).max() > 1000
