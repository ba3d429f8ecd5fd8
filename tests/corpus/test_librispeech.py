"""What `open_librispeech` promises: clips that hold their word to the sample, whole speakers, nothing lost unseen."""

import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import soundfile
from librispeech_tree import (
    GAP_MS,
    MS,
    Told,
    Word,
    plain_line,
    small_corpus,
    tell,
    write_grids,
    write_plain,
    write_recordings,
)
from tiny_corpus import pack, read_all

from kws_dist.corpus.clip import UNKNOWN_WORD, Clip, Samples
from kws_dist.corpus.librispeech import open_librispeech
from kws_dist.corpus.recordings import Recordings
from kws_dist.errors import UsageError

pytest.importorskip("espeakng_loader")

WORDS = ["yes", "No", "don't"]
MARGIN_MS = 50


@pytest.fixture(scope="module")
def told() -> list[Told]:
    return small_corpus()


@pytest.fixture(scope="module")
def root(told: list[Told], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("libri") / "LibriSpeech", told)


@pytest.fixture(scope="module")
def plain(told: list[Told], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("libri") / "plain", told)


@pytest.fixture(scope="module")
def source(root: Path, plain: Path) -> Recordings:
    return open_librispeech(root, plain, words=WORDS)


@pytest.fixture(scope="module")
def audio(source: Recordings) -> dict[str, Samples]:
    return read_all(source)


def said(told: list[Told], clip: Clip) -> tuple[Told, Word]:
    """The word that a clip is cut from, by its key."""
    utterance, start_ms = re.search(r"(\d+-\d+-\d+)-(\d{5})(-[0-9a-f]{12})?$", clip.key).group(1, 2)  # pyright: ignore
    one = next(one for one in told if one.id == utterance)
    return one, next(word for word in one.words if word.start_ms == int(start_ms))


def spoken(source: Recordings, word: str) -> list[Clip]:
    return [clip for clip in source.clips if clip.word == word]


def occurrences(told: list[Told], word: str) -> int:
    return sum(one.text == word.lower() for utterance in told for one in utterance.words)


def test_every_clip_holds_exactly_its_word_between_its_margins(
    told: list[Told], source: Recordings, audio: dict[str, Samples]
) -> None:
    assert {clip.word for clip in source.clips} == {UNKNOWN_WORD, *WORDS}
    for clip in source.clips:
        one, word = said(told, clip)
        samples, margin = audio[clip.key], MARGIN_MS * MS
        np.testing.assert_array_equal(samples[margin : margin + len(word.samples)], word.samples)
        np.testing.assert_array_equal(samples, one.samples[word.start_ms * MS - margin : word.end_ms * MS + margin])
        assert samples.nbytes == clip.size_bytes
        assert (word.text == clip.word.lower()) == (clip.word != UNKNOWN_WORD)


def test_every_time_a_word_is_said_is_a_clip(told: list[Told], source: Recordings) -> None:
    for word in WORDS:
        assert len(spoken(source, word)) == occurrences(told, word) >= 8
    assert source.rejected == ()


def test_keys_say_what_and_where_and_are_unique_and_plain(source: Recordings) -> None:
    keys = [clip.key for clip in source.clips]
    assert keys == sorted(set(keys))
    assert {"yes/14-1014-0001-00120", "No/84-1084-0000-01489"} < set(keys)
    assert any(re.fullmatch(r"don_t/14-1014-0000-\d{5}-[0-9a-f]{12}", key) for key in keys)
    assert any(re.fullmatch(r"_unknown_/music-\d+-\d+-000\d-\d{5}", key) for key in keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_/-]+", key) for key in keys)


def test_subsets_give_the_splits_and_no_speaker_is_in_two(told: list[Told], source: Recordings) -> None:
    split_of = {"train-clean-5": "train", "dev-clean": "val", "test-other": "test"}
    subset_of = {one.speaker: one.subset for one in told}
    assert all(clip.split == split_of[subset_of[clip.speaker]] for clip in source.clips)
    assert all(clip.speaker == clip.key.split("-")[clip.word == UNKNOWN_WORD].split("/")[-1] for clip in source.clips)
    assert source.provenance["split_rule"] == "subsets"


@pytest.mark.parametrize("percent", [100, 37.5, 0])
def test_other_words_are_as_many_as_asked_for_in_every_split(root: Path, plain: Path, percent: float) -> None:
    source = open_librispeech(root, plain, words=WORDS, unknown_percent=percent)
    keywords = Counter(clip.split for clip in source.clips if clip.word != UNKNOWN_WORD)
    others = Counter(clip.split for clip in source.clips if clip.word == UNKNOWN_WORD)
    assert keywords == {"train": 16, "val": 8, "test": 8}
    assert others == {split: math.ceil(count * percent / 100) for split, count in keywords.items() if percent}
    assert source.words == ((UNKNOWN_WORD,) if percent else ()) + tuple(WORDS)


def test_other_words_are_many_and_different(told: list[Told], source: Recordings) -> None:
    different = {word.text for one in told for word in one.words} - {word.lower() for word in WORDS}
    for split in ("train", "val", "test"):
        times = Counter(said(told, clip)[1].text for clip in spoken(source, UNKNOWN_WORD) if clip.split == split)
        wanted = sum(times.values())
        assert len(times) == min(wanted, len(different))
        assert max(times.values()) - min(times[word] for word in different) <= 1


def test_the_draw_depends_on_nothing_but_the_words(
    told: list[Told], root: Path, source: Recordings, tmp_path: Path
) -> None:
    again = open_librispeech(root, write_plain(tmp_path / "reversed", told[::-1]), words=WORDS)
    assert again.clips == source.clips


@pytest.mark.parametrize("short", [True, False])
def test_textgrids_give_the_same_clips(
    told: list[Told], root: Path, source: Recordings, audio: dict[str, Samples], tmp_path: Path, short: bool
) -> None:
    grids = open_librispeech(root, write_grids(tmp_path, told, short=short, silence="sil"), words=WORDS)
    assert grids.clips == source.clips
    assert all(np.array_equal(samples, audio[key]) for key, samples in read_all(grids).items())


def test_alignments_may_lie_among_the_recordings(told: list[Told], source: Recordings, tmp_path: Path) -> None:
    folder = write_plain(write_recordings(tmp_path, told), told)
    assert open_librispeech(folder, folder, words=WORDS).clips == source.clips


def test_archives_give_the_same_clips_as_folders(
    root: Path, plain: Path, source: Recordings, audio: dict[str, Samples], tmp_path: Path
) -> None:
    recordings = {f"LibriSpeech/{file.relative_to(root)}": file.read_bytes() for file in root.rglob("*.*")}
    with ZipFile(tmp_path / "alignments.zip", "w") as archive:
        for file in plain.rglob("*.txt"):
            archive.write(file, str(file.relative_to(plain)))
    packed = open_librispeech(pack(tmp_path / "all.tar.gz", recordings), tmp_path / "alignments.zip", words=WORDS)
    assert packed.clips == source.clips
    assert packed.provenance["alignments_sha256"] == source.provenance["alignments_sha256"]
    assert all(np.array_equal(samples, audio[key]) for key, samples in read_all(packed).items())


# Margins.


def cut_one(tmp_path: Path, text: str, word: str, **options: Any) -> tuple[Told, Word, Samples]:
    """Cut the one clip of `word` out of an utterance."""
    one = tell("84-1-0000", "dev-clean", text)
    root, alignments = write_recordings(tmp_path / "root", [one]), write_plain(tmp_path / "plain", [one])
    source = open_librispeech(root, alignments, words=[word], unknown_percent=0, split="0/0/100", **options)
    [samples] = read_all(source).values()
    return one, next(part for part in one.words if part.text == word), samples


def test_a_margin_ends_with_the_utterance_and_in_the_middle_of_the_next_word(tmp_path: Path) -> None:
    one, word, samples = cut_one(tmp_path, "yes stop", "yes", margin_ms=500, clip_seconds=2)
    middle_ms = (one.words[1].start_ms + one.words[1].end_ms) / 2
    assert word.start_ms == GAP_MS
    np.testing.assert_array_equal(samples, one.samples[: round(middle_ms * MS)])


def test_a_margin_goes_through_silence_up_to_the_middle_of_the_word_beyond(tmp_path: Path) -> None:
    one, word, samples = cut_one(tmp_path, "stop , yes", "yes", margin_ms=5_000, clip_seconds=3)
    middle_ms = (one.words[0].start_ms + one.words[0].end_ms) / 2
    np.testing.assert_array_equal(samples, one.samples[round(middle_ms * MS) :])
    assert word.start_ms - middle_ms > GAP_MS


def test_without_a_margin_a_clip_is_the_word_alone(tmp_path: Path) -> None:
    one, word, samples = cut_one(tmp_path, "stop yes go", "yes", margin_ms=0)
    np.testing.assert_array_equal(samples, one.samples[word.start_ms * MS : word.end_ms * MS])


def test_margins_give_way_to_the_word_where_the_clip_would_be_too_long(tmp_path: Path) -> None:
    [short] = tell("84-1-0000", "", "yes").words
    word_ms = short.end_ms - short.start_ms
    one, word, samples = cut_one(tmp_path, "yes", "yes", margin_ms=100, clip_seconds=(word_ms + 40) / 1000)
    np.testing.assert_array_equal(samples, one.samples[(word.start_ms - 20) * MS : (word.end_ms + 20) * MS])


# Splits by shares.


def test_one_kind_of_subset_is_divided_by_speakers(told: list[Told], tmp_path: Path) -> None:
    training = [one for one in told if one.subset == "train-clean-5"]
    root, alignments = write_recordings(tmp_path / "LibriSpeech", training), write_plain(tmp_path / "plain", training)
    for folder in (root, root / "train-clean-5"):
        source = open_librispeech(folder, alignments, words=WORDS)
        assert Counter(clip.split for clip in source.clips if clip.word == "yes") == {"train": 4, "val": 2, "test": 2}
        assert_whole_speakers(source)
        assert source.provenance["split_rule"] == "80/10/10"


def test_shares_that_are_asked_for_go_before_the_subsets(root: Path, plain: Path) -> None:
    source = open_librispeech(root, plain, words=WORDS, split="50/0/50")
    assert Counter(clip.split for clip in source.clips if clip.word == "No") == {"train": 4, "test": 4}
    assert_whole_speakers(source)


def assert_whole_speakers(source: Recordings) -> None:
    splits_of = defaultdict(set)
    for clip in source.clips:
        splits_of[clip.speaker].add(clip.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    words = {clip.word for clip in source.clips}
    assert {(clip.word, clip.split) for clip in source.clips} == {
        (word, clip.split) for word in words for clip in source.clips
    }


def test_speakers_who_say_none_of_the_words_are_divided_too(told: list[Told], tmp_path: Path) -> None:
    talking = [tell(f"{speaker}-1-0000", "mine", "music for him") for speaker in range(100, 140)]
    everyone = [*told, *talking]
    root, alignments = write_recordings(tmp_path / "root", everyone), write_plain(tmp_path / "plain", everyone)
    source = open_librispeech(root, alignments, words=WORDS, split="50/0/50", unknown_percent=400)
    assert_whole_speakers(source)
    heard = {split: {clip.speaker for clip in source.clips if clip.split == split} for split in ("train", "test")}
    assert all(len(speakers) > 15 for speakers in heard.values())


# What is left out.


def test_clips_and_rejected_words_add_up_to_what_is_said(told: list[Told], tmp_path: Path) -> None:
    """Recordings and alignments are damaged in every way; each `yes` is a clip, or is named as one that is not."""
    root = write_recordings(tmp_path / "LibriSpeech", told)
    first, second = (f"train-clean-5/14/1014/14-1014-000{i}.flac" for i in (0, 1))
    (root / first).write_bytes(b"no flac")  # a `yes`
    (root / second).unlink()  # a `yes`
    soundfile.write(root / "train-clean-5/25/1025/25-1025-0000.flac", told[2].samples[:-1600], 16_000)  # a `yes`
    (root / "train-clean-5/25/1025/notes.flac").write_bytes(b"")
    spoiled = {
        told[3].id: plain_line(told[3]).replace(",", ";", 1),  # a `yes`
        told[4].id: "",  # a `yes`
        told[5].id: plain_line(told[5]).replace(
            '"0.120,', f'"{told[5].words[0].end_ms / 1000 - 0.004:.3f},'
        ),  # a `yes`
    }
    source = open_librispeech(root, write_plain(tmp_path / "plain", told, spoiled), words=["yes"])
    reasons = {row.name: row.reason for row in source.rejected}
    assert re.search("not a recording that can be read", reasons[f"{first} at 0.701 s"])
    assert re.search(r"lasts 3.2\d s, and its alignment \(.*25-1025.alignment.txt:1\) goes on to 3.3\d s", str(reasons))
    assert re.search("words, counting silences", reasons["train-clean-5/25/1025/25-1025.alignment.txt:2"])
    assert reasons["train-clean-5/36/1036/36-1036-0000.flac"] == "there is no alignment of 36-1036-0000"
    assert re.search("lasts 0.004 s by its alignment", str(reasons))
    assert reasons["train-clean-5/14/1014/14-1014.alignment.txt:2"] == (
        "there is no recording of 14-1014-0001; 1 of the wanted words are in it"
    )
    assert "SPEAKER-CHAPTER-NUMBER" in reasons["train-clean-5/25/1025/notes.flac"]
    assert len(source.rejected) == 7
    assert len(spoken(source, "yes")) == occurrences(told, "yes") - 6
    assert sum(row.word == "yes" for row in source.rejected) == 3  # of the others the words cannot be told


@pytest.mark.parametrize("long", ["reject", "crop"])
def test_a_word_longer_than_a_clip_is_rejected_or_cropped_to_its_loudest_part(
    told: list[Told], root: Path, plain: Path, long: Any
) -> None:
    lengths_ms = [word.end_ms - word.start_ms for one in told for word in one.words if word.text == "yes"]
    limit_ms = sorted(lengths_ms)[8]
    longer = sum(length_ms > limit_ms for length_ms in lengths_ms)
    options: dict[str, Any] = {"clip_seconds": limit_ms / 1000, "split": "50/0/50", "long": long}
    source = open_librispeech(root, plain, words=["yes"], **options)
    lengths = [len(samples) for key, samples in read_all(source).items() if key.startswith("yes")]
    assert max(lengths) == limit_ms * MS
    assert 0 < longer < 8
    assert len(lengths) == occurrences(told, "yes") - (longer if long == "reject" else 0)
    assert len(source.rejected) == (longer if long == "reject" else 0)
    for row in source.rejected:
        assert row.word == "yes"
        assert re.fullmatch(r"the word lasts 0.3\d s, longer than a clip of 0.3\d* s", row.reason)


def test_alignments_of_subsets_that_are_not_there_are_one_row_a_chapter(
    told: list[Told], root: Path, tmp_path: Path
) -> None:
    more = [tell(f"999-5-000{i}", "train-other-500", "yes and no") for i in range(4)]
    source = open_librispeech(root, write_plain(tmp_path, [*told, *more]), words=["yes"])
    [row] = source.rejected
    assert row.name == "train-other-500/999/5/999-5.alignment.txt:1"
    assert row.reason == (
        "there is no recording of 999-5-0000 nor of 3 more utterances of its chapter; 4 of the wanted words are in them"
    )


def test_an_utterance_that_is_there_twice_is_used_once(told: list[Told], tmp_path: Path) -> None:
    root = write_recordings(tmp_path / "LibriSpeech", told)
    copy = root / "dev-clean" / "copy" / f"{told[8].id}.flac"
    copy.parent.mkdir()
    copy.write_bytes((root / told[8].folder / f"{told[8].id}.flac").read_bytes())
    source = open_librispeech(root, write_plain(tmp_path / "plain", told), words=["yes"])
    assert [row.reason for row in source.rejected] == [f"another recording is called {told[8].id} as well"]
    assert len(spoken(source, "yes")) == occurrences(told, "yes")


def test_a_flac_file_with_much_before_its_samples_is_read(told: list[Told], tmp_path: Path) -> None:
    """A FLAC file may begin with pictures or padding; here 100 kB."""
    root = write_recordings(tmp_path / "LibriSpeech", told)
    path = root / told[0].folder / f"{told[0].id}.flac"
    flac = path.read_bytes()
    padding = bytes([1]) + (100_000).to_bytes(3, "big") + bytes(100_000)
    path.write_bytes(flac[:4] + bytes([flac[4] & 0x7F]) + flac[5:42] + padding + flac[42:])
    source = open_librispeech(root, write_plain(tmp_path / "plain", told), words=["yes"])
    assert source.rejected == ()
    [clip] = [clip for clip in source.clips if clip.key.startswith(f"yes/{told[0].id}")]
    word = said(told, clip)[1]
    [samples] = read_all(source, [clip.key]).values()
    np.testing.assert_array_equal(samples[MARGIN_MS * MS :][: len(word.samples)], word.samples)


def test_the_provenance_names_every_choice_and_the_alignments(source: Recordings) -> None:
    about = source.provenance
    assert (about["kind"], about["path"], about["alignments"]) == ("librispeech", "LibriSpeech", "plain")
    assert about["words"] == WORDS
    assert about["margin_ms"] == 50
    assert re.fullmatch("[0-9a-f]{64}", about["alignments_sha256"])


# Wrong use.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"words": []}, "--words: name the words"),
        ({"words": ["yes", "YES"]}, "--words: 'yes' and 'YES' are the same word"),
        ({"words": ["hey there"]}, "--words: 'hey there' is not one word"),
        ({"words": ["yes", "zebra"]}, "--words: 'zebra' is said in none of the 16 utterances"),
        ({"words": ["yes"], "clip_seconds": 0.1}, "--words: 'yes' is said 16 times, and none can be used.*longer than"),
        ({"words": ["yes"], "margin_ms": -1}, "--margin_ms -1: give a number at least 0"),
        ({"words": ["yes"], "clip_seconds": 0}, "--clip_seconds 0: give a number above 0"),
        ({"words": ["yes"], "unknown_percent": math.inf}, "--unknown_percent inf"),
        (
            {"words": ["yes"], "unknown_percent": 2_000},
            r"that is 160 other words in train, and there are 68; ask for 850",
        ),
        ({"words": ["yes"], "split": "80/20"}, "--split 80/20: not three shares"),
    ],
)
def test_wrong_use_is_one_sentence_that_names_the_flag(
    root: Path, plain: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_librispeech(root, plain, **options)
    assert "\n" not in str(caught.value)


def test_a_word_that_is_missing_in_a_split_is_named_with_what_was_found(told: list[Told], tmp_path: Path) -> None:
    rare = [*told, tell("95-9-0000", "dev-clean", "zebra and zebra"), tell("61-9-0000", "test-other", "zebra")]
    root, alignments = write_recordings(tmp_path / "root", rare), write_plain(tmp_path / "plain", rare)
    with pytest.raises(UsageError, match="'zebra' was found 0 times in train, 2 times in val, 1 times in test"):
        open_librispeech(root, alignments, words=["yes", "zebra"])
    with pytest.raises(UsageError, match=r"'zebra' is spoken by 2 speakers"):
        open_librispeech(root, alignments, words=["yes", "zebra"], split="80/10/10")


def test_a_speaker_in_subsets_of_two_kinds_is_named(told: list[Told], tmp_path: Path) -> None:
    both = [*told, tell("14-9-0000", "dev-clean", "yes")]
    root, alignments = write_recordings(tmp_path / "root", both), write_plain(tmp_path / "plain", both)
    with pytest.raises(UsageError, match="speaker 14 is in subsets for val and for train; take one away"):
        open_librispeech(root, alignments, words=["yes"])


def test_a_subset_whose_name_says_nothing_is_named(told: list[Told], tmp_path: Path) -> None:
    more = [*told, tell("999-5-0000", "extra", "yes")]
    root, alignments = write_recordings(tmp_path / "root", more), write_plain(tmp_path / "plain", more)
    with pytest.raises(UsageError, match=r"subset 'extra' does not say what it is for; call it train-"):
        open_librispeech(root, alignments, words=["yes"])


def test_recordings_that_are_not_there_are_said_to_be_missing(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--root .*no recordings SPEAKER-CHAPTER-NUMBER.flac that can be used"):
        open_librispeech(tmp_path, plain, words=["yes"])
    with pytest.raises(UsageError, match=r"--root .*no such folder"):
        open_librispeech(tmp_path / "nowhere", plain, words=["yes"])
