"""What the Speech Commands tasks promise: the published counts, and test sets that depend on nothing but names."""

import random
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_corpus import files, pack, read_all, tone, unpack, wav_file

from kws_dist.corpus.clip import NOISE_WORD, SILENCE_WORD, SPLITS, UNKNOWN_WORD
from kws_dist.corpus.download import OFFICIAL
from kws_dist.corpus.layout import LIST_OF_SPLIT, split_of_names, which_set
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.corpus.tasks import KEYWORDS, TASKS, V1_WORDS, V2_WORDS, choose, task_of_words
from kws_dist.errors import DataError, UsageError

CLIPS_OF_WORD_V2 = {
    "five": 4052,
    "zero": 4052,
    "yes": 4044,
    "seven": 3998,
    "no": 3941,
    "nine": 3934,
    "down": 3917,
    "one": 3890,
    "two": 3880,
    "go": 3880,
    "stop": 3872,
    "six": 3860,
    "on": 3845,
    "left": 3801,
    "eight": 3787,
    "right": 3778,
    "off": 3745,
    "four": 3728,
    "three": 3727,
    "up": 3723,
    "dog": 2128,
    "wow": 2123,
    "house": 2113,
    "marvin": 2100,
    "bird": 2064,
    "happy": 2054,
    "cat": 2031,
    "sheila": 2022,
    "bed": 2014,
    "tree": 1759,
    "backward": 1664,
    "visual": 1592,
    "follow": 1579,
    "learn": 1575,
    "forward": 1557,
}
# Of version 0.01 only the sums are published.
CLIPS_OF_WORD_V1 = {word: 2368 if word in KEYWORDS else 2052 for word in V1_WORDS} | {"go": 2370, "zero": 2051}

KEYWORD_CLIPS = {"0.01": (18_538, 2_577, 2_567), "0.02": (30_769, 3_703, 4_074)}
ALL_CLIPS = {"0.01": (51_088, 6_798, 6_835), "0.02": (84_843, 9_981, 11_005)}
NOISE = [f"{NOISE_WORD}/{name}.wav" for name in ("doing_the_dishes", "dude_miaowing", "pink_noise", "white_noise")]


def official(version: str) -> tuple[list[str], dict[str, bytes]]:
    """Return names of recordings, and the two lists, with the published counts; every clip has a speaker of its own."""
    clips_of_word = CLIPS_OF_WORD_V1 if version == "0.01" else CLIPS_OF_WORD_V2
    of_word = {word: [f"{word}/{i:08x}_nohash_0.wav" for i in range(n)] for word, n in clips_of_word.items()}
    keywords = list(by_turns(of_word[word] for word in KEYWORDS))
    others = list(by_turns(of_word[word] for word in of_word if word not in KEYWORDS))
    _, val, test = KEYWORD_CLIPS[version]
    other_val, other_test = (ALL_CLIPS[version][split] - KEYWORD_CLIPS[version][split] for split in (1, 2))
    listed = {
        "validation_list.txt": keywords[:val] + others[:other_val],
        "testing_list.txt": keywords[val : val + test] + others[other_val : other_val + other_test],
    }
    return keywords + others, {name: "\n".join(lines).encode() for name, lines in listed.items()}


def by_turns(columns: Iterable[list[str]]) -> Iterator[str]:
    rows = [list(column) for column in columns]
    while any(rows):
        yield from (row.pop() for row in rows if row)


@pytest.fixture(scope="module")
def official_splits() -> dict[str, dict[str, str]]:
    """By version the split of every recording, as the lists have it."""
    return {v: split_of_names([*official(v)[0], *NOISE], official(v)[1], Path("a.tar.gz"))[0] for v in KEYWORD_CLIPS}


@pytest.mark.parametrize(
    ("task", "total", "special"),
    [
        ("v1-30", (51_088, 6_798, 6_835), None),
        ("v2-35", (84_843, 9_981, 11_005), None),
        ("v1-12", (22_246, 3_093, 3_081), (1_854, 258, 257)),
        ("v2-12", (36_923, 4_445, 4_890), (3_077, 371, 408)),
        ("v2-10", (30_769, 3_703, 4_074), None),
    ],
)
def test_every_task_has_the_published_counts(
    official_splits: dict[str, dict[str, str]], task: str, total: tuple[int, ...], special: tuple[int, ...] | None
) -> None:
    split_of = official_splits[TASKS[task].version]
    choice = choose(TASKS[task], split_of)
    chosen = Counter((split_of[name], word) for name, word in choice.words.items())
    for split, wanted in zip(SPLITS, total, strict=True):
        words = sum(n for (its_split, _), n in chosen.items() if its_split == split)
        assert words + choice.silence.get(split, 0) == wanted
    if special:
        assert tuple(choice.silence[split] for split in SPLITS) == special
        assert tuple(chosen[split, UNKNOWN_WORD] for split in SPLITS) == special
    assert choice.notes == []
    assert chosen["noise", NOISE_WORD] == len(NOISE)


def test_the_synthetic_archives_are_of_the_published_size() -> None:
    assert sum(CLIPS_OF_WORD_V2.values()) == 105_829
    assert sum(CLIPS_OF_WORD_V1.values()) == 64_721
    assert [len(V1_WORDS), len(V2_WORDS), len(CLIPS_OF_WORD_V2)] == [30, 35, 35]
    assert set(CLIPS_OF_WORD_V2) == set(V2_WORDS)


def test_105829_names_are_listed_without_their_audio(tmp_path: Path) -> None:
    names, lists = official("0.02")
    random.Random(0).shuffle(names)
    source = SpeechCommands(pack_names(tmp_path / "full.tar", [*names, *NOISE], lists), task="v2-12")
    counts = Counter((clip.split, clip.word) for clip in source.clips)
    assert Counter(clip.split for clip in source.clips) == {"train": 36_923, "val": 4_445, "test": 4_890, "noise": 4}
    assert source.words == (SILENCE_WORD, UNKNOWN_WORD, *KEYWORDS)
    assert [counts[split, SILENCE_WORD] for split in SPLITS] == [3_077, 371, 408]
    assert [counts[split, UNKNOWN_WORD] for split in SPLITS] == [3_077, 371, 408]


def pack_names(path: Path, names: Iterable[str], content: Mapping[str, bytes]) -> Path:
    """Write a `.tar` of empty files, ten times as fast as `tarfile` does, and then of files with content."""
    header = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
    rest, checksum = header[100:148], sum(header) - sum(header[148:156]) + 8 * ord(" ")
    with path.open("wb") as file:
        for name in (f"./{name}".encode() for name in names):
            file.write(name.ljust(100, b"\0") + rest + b"%06o\0 " % (checksum + sum(name)) + header[156:])
        with tarfile.open(fileobj=file, mode="w") as tar:
            folder = unpack(path.with_suffix(""), content)
            for name in content:
                tar.add(folder / name, f"./{name}")
    return path


WORDS = ("yes", "no", "bed", "cat", "dog")


def corpus(speakers: int = 60) -> dict[str, bytes]:
    return files(words=WORDS, speakers=speakers, lists=False)


def test_no_speaker_crosses_splits_among_unknown_words_either(tmp_path: Path) -> None:
    source = SpeechCommands(pack(tmp_path / "a.tar.gz", corpus()), words=["yes", "no"], unknown="rule")
    of_split = {s: {c.speaker for c in source.clips if c.split == s} for s in SPLITS}
    unknown = [clip for clip in source.clips if clip.word == UNKNOWN_WORD]
    assert {clip.split for clip in unknown} == set(SPLITS)
    assert {clip.key.partition("/")[0] for clip in unknown} == {"bed", "cat", "dog"}
    assert not of_split["train"] & of_split["val"]
    assert not (of_split["train"] | of_split["val"]) & of_split["test"]


def test_the_order_of_an_archive_changes_nothing(tmp_path: Path) -> None:
    content = list(corpus().items())
    forwards = SpeechCommands(pack(tmp_path / "a.tar.gz", dict(content)), words=["no"], unknown="rule")
    backwards = SpeechCommands(pack(tmp_path / "b.tar.gz", dict(content[::-1])), words=["no"], unknown="rule")
    assert backwards.clips == forwards.clips


@given(st.integers(0, 2**32), st.integers(2, 60), st.sampled_from(["rule", "all", "none"]))
def test_a_choice_depends_on_nothing_but_names(shuffle: int, speakers: int, unknown: str) -> None:
    names = [f"{word}/{speaker:08x}_nohash_0.wav" for word in WORDS for speaker in range(speakers)]
    split_of, _ = split_of_names(names, {}, Path())
    task = task_of_words(["yes", "no"], unknown=unknown, silence=True)  # type: ignore[arg-type]
    whole = choose(task, split_of)
    random.Random(shuffle).shuffle(names)
    assert choose(task, {name: split_of[name] for name in names}) == whole
    others = Counter(split_of[name] for name, word in whole.words.items() if word == UNKNOWN_WORD)
    for split in SPLITS:
        keywords = sum(split_of[name] == split for name, word in whole.words.items() if word in task.words)
        there = sum(split_of[name] == split for name in names if name.partition("/")[0] not in task.words)
        tenth = (keywords + 9) // 10
        assert whole.silence[split] == tenth
        assert others[split] == {"none": 0, "rule": tenth, "all": there}[unknown]


def test_a_split_more_or_less_changes_no_choice_in_another() -> None:
    split_of, _ = split_of_names([name for name in corpus() if name.endswith(".wav")], {}, Path())
    task = task_of_words(["yes"], unknown="rule")
    without = choose(task, {name: split for name, split in split_of.items() if split != "test"})
    assert without.words == {n: w for n, w in choose(task, split_of).words.items() if split_of[n] != "test"}


def test_which_words_are_unknown_stays_as_it_is() -> None:
    """Published results rest on it: a change of the order would be another test set."""
    names = [f"bed/{i:08x}_nohash_0.wav" for i in range(100)]
    split_of = dict.fromkeys(names, "test") | {f"yes/{i:08x}_nohash_0.wav": "test" for i in range(41)}
    chosen = choose(task_of_words(["yes"], unknown="rule"), split_of).words
    unknown = [int(name[4:12], 16) for name, word in sorted(chosen.items()) if word == UNKNOWN_WORD]
    assert unknown == [7, 28, 61, 66, 95]


def test_all_other_words_are_unknown_on_request(tiny_archive: Path) -> None:
    source = SpeechCommands(tiny_archive, words=["up"], unknown="all")
    assert source.words == (UNKNOWN_WORD, "up")
    assert Counter(clip.word for clip in source.clips) == {UNKNOWN_WORD: 24, "up": 12, NOISE_WORD: 2}
    assert SpeechCommands(tiny_archive, words=["up"]).words == ("up",)


def test_fewer_other_words_than_asked_for_are_all_taken_and_noted(tmp_path: Path) -> None:
    speakers = [f"{speaker:08x}" for speaker in range(100)]
    train = [speaker for speaker in speakers if which_set(speaker) == "train"]
    names = [*(f"yes/{speaker}_nohash_0.wav" for speaker in speakers), f"bed/{train[0]}_nohash_0.wav"]
    source = SpeechCommands(pack(tmp_path / "a.tar.gz", dict.fromkeys(names, b"?")), words=["yes"], unknown="rule")
    assert [clip.key for clip in source.clips if clip.word == UNKNOWN_WORD] == [f"bed/{train[0]}_nohash_0"]
    assert source.provenance["notes"] == [
        f"train: _unknown_ has 1 clips, all there are; the rule asks for {(len(train) + 9) // 10}",
        "val: _unknown_ has 0 clips, all there are; the rule asks for 2",
        "test: _unknown_ has 0 clips, all there are; the rule asks for 2",
    ]


def everything(words: Iterable[str] = V2_WORDS) -> dict[str, bytes]:
    return files(words=tuple(words), speakers=6)


def test_the_labels_of_the_12_class_tasks_are_in_the_order_of_the_original(tmp_path: Path) -> None:
    source = SpeechCommands(pack(tmp_path / "a.tar.gz", everything()), task="v2-12")
    assert source.words == (
        *("_silence_", "_unknown_"),
        *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    )
    assert source.provenance["task"] == "v2-12"
    assert (source.provenance["unknown"], source.provenance["silence"]) == ("rule", True)


def test_a_task_needs_all_its_words(tmp_path: Path) -> None:
    few = pack(tmp_path / "few.tar.gz", everything(word for word in V2_WORDS if word not in ("go", "visual")))
    for task in ("v2-35", "v1-30", "v1-12", "v2-12", "v2-10"):
        missing = "'go', 'visual'" if task == "v2-35" else "'go'"
        with pytest.raises(UsageError, match=rf"--task {task}: no recordings of {missing} in .*few.tar.gz"):
            SpeechCommands(few, task=task)


def test_a_task_of_the_first_version_is_not_made_of_the_second(tmp_path: Path) -> None:
    for task, instead in (("v1-12", "v2-12"), ("v1-30", "v2-35")):
        with pytest.raises(UsageError, match=f"has words of 0.02 .*use --task {instead}"):
            SpeechCommands(pack(tmp_path / "a.tar.gz", everything()), task=task)
    assert SpeechCommands(pack(tmp_path / "b.tar.gz", everything(V1_WORDS)), task="v1-30").words == V1_WORDS


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"task": "v3-12"}, "there is no such task; choose one of v1-30, v2-35, v1-12, v2-12, v2-10"),
        ({"task": "v2-12", "words": ["yes"]}, "leave out --words"),
        ({"task": "v2-12", "silence": True}, "leave out .*--silence"),
        ({"unknown": "rule"}, "no other words, of which _unknown_"),
        ({"words": ["yes", "no", "up"], "unknown": "all"}, "no other words, of which _unknown_"),
    ],
)
def test_what_cannot_be_is_a_usage_error(tiny_archive: Path, asked: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SpeechCommands(tiny_archive, **asked)  # type: ignore[arg-type]


def test_a_folder_called_like_a_class_is_not_mixed_with_it(tmp_path: Path) -> None:
    content = files() | {"_silence_/a.wav": wav_file(tone(1)), "_unknown_/b_nohash_0.wav": wav_file(tone(2))}
    archive = pack(tmp_path / "a.tar.gz", content)
    assert SpeechCommands(archive).words == ("_silence_", "_unknown_", "no", "up", "yes")
    with pytest.raises(UsageError, match="'_silence_' is a folder of recordings here"):
        SpeechCommands(archive, silence=True)
    chosen = SpeechCommands(archive, words=["yes", "no", "up"], unknown="all")
    assert [clip.key for clip in chosen.clips if clip.word == UNKNOWN_WORD] == ["_unknown_/b_nohash_0"]


def canonical(labels: Iterable[str]) -> dict[str, bytes]:
    """A test archive as the official ones are: numbered silence, and unknown words named twice."""
    content = {f"{label}/{i:08x}_nohash_0.wav": tone(50 * i, 900) for label in labels for i in (2, 3)}
    content = {name: wav_file(audio) for name, audio in content.items() if not name.startswith("_")}
    content |= {f"_silence_/{i}.wav": wav_file(tone(i)) for i in (7, 1035)}
    content |= {f"_unknown_/bed_{i:08x}_nohash_0.wav.wav": wav_file(tone(i)) for i in (2, 3, 4)}
    return content | {"README.md": b"about", "LICENSE": b"free"}


@pytest.fixture(scope="module")
def all_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = {f"{NOISE_WORD}/hum.wav": wav_file(tone(1, 170_000))}
    return pack(tmp_path_factory.mktemp("all") / "all.tar.gz", everything() | noise)


def test_the_test_set_is_that_of_the_canonical_archive_and_the_testing_list_is_not_used(
    all_words: Path, tmp_path: Path
) -> None:
    test_archive = pack(tmp_path / "test.tar.gz", canonical(KEYWORDS))
    source = SpeechCommands(all_words, task="v2-12", test_archive=test_archive)
    by_rule = SpeechCommands(all_words, task="v2-12")
    test = {clip.key: clip for clip in source.clips if clip.split == "test"}
    assert Counter(clip.word for clip in test.values()) == {SILENCE_WORD: 2, UNKNOWN_WORD: 3} | dict.fromkeys(
        KEYWORDS, 2
    )
    assert test["_unknown_/bed_00000002_nohash_0_wav"].speaker == "00000002"
    assert test["_silence_/1035"].speaker == ""
    others = [clip for clip in source.clips if clip.split != "test"]
    assert others == [clip for clip in by_rule.clips if clip.split != "test"]
    listed = {clip.key for clip in by_rule.clips if clip.split == "test" and clip.word not in by_rule.task.special}
    assert {key for key in listed if key not in test} == {f"{w}/00000004_nohash_0" for w in KEYWORDS}
    assert source.provenance["test_set"] == "canonical archive"
    assert source.provenance["test_archive"]["path"] == "test.tar.gz"
    assert len(source.provenance["test_archive"]["sha256"]) == 64
    assert by_rule.provenance["test_set"] == "rule"


def test_both_archives_are_read(all_words: Path, tmp_path: Path) -> None:
    source = SpeechCommands(all_words, task="v2-12", test_archive=pack(tmp_path / "test.tar.gz", canonical(KEYWORDS)))
    audio = read_all(source)
    np.testing.assert_array_equal(audio["yes/00000002_nohash_0"], tone(100, 900))
    np.testing.assert_array_equal(audio["_unknown_/bed_00000004_nohash_0_wav"], tone(4))
    np.testing.assert_array_equal(audio["_silence_/7"], tone(7))
    assert len(audio["_silence_/val-000000"]) == 16_000
    assert len(audio["yes/00000005_nohash_0"]) == 850


def test_a_test_archive_without_a_folder_that_the_task_needs_is_a_usage_error(all_words: Path, tmp_path: Path) -> None:
    for labels, missing in ((KEYWORDS[:-1], "'go'"), (KEYWORDS[2:], "'yes', 'no'")):
        test_archive = pack(tmp_path / "test.tar.gz", canonical(labels))
        with pytest.raises(UsageError, match=rf"--test_archive .*: it has no folder {missing}, which the task needs"):
            SpeechCommands(all_words, task="v2-12", test_archive=test_archive)
    assert {clip.word for clip in SpeechCommands(all_words, words=["up"], test_archive=test_archive).clips} == {
        "up",
        NOISE_WORD,
    }
    with pytest.raises(UsageError, match=r"--test_archive .*there is no such file"):
        SpeechCommands(all_words, task="v2-12", test_archive=tmp_path / "nowhere.tar.gz")


def test_a_recording_of_the_test_archive_must_not_be_trained_on(all_words: Path, tmp_path: Path) -> None:
    leak = canonical(KEYWORDS) | {"yes/00000005_nohash_0.wav": wav_file(tone(5))}
    with pytest.raises(DataError, match=r"'yes/00000005_nohash_0.wav' is a test recording, and .* has it as train"):
        SpeechCommands(all_words, task="v2-12", test_archive=pack(tmp_path / "test.tar.gz", leak))


def test_the_testing_list_is_the_test_set_of_a_task_without_special_classes(all_words: Path, tmp_path: Path) -> None:
    assert SpeechCommands(all_words, task="v2-10").provenance["test_set"] == "testing list"
    unlisted = {name: data for name, data in everything().items() if name not in LIST_OF_SPLIT.values()}
    assert SpeechCommands(pack(tmp_path / "a.tar.gz", unlisted)).provenance["test_set"] == "which_set"


def test_an_official_archive_is_recognised_by_its_checksum_and_kept_to_its_version(
    all_words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_archive = pack(tmp_path / "test.tar.gz", canonical(KEYWORDS))
    plain = SpeechCommands(all_words, task="v2-12", test_archive=test_archive)
    assert plain.provenance["official"] is None
    known_test = replace(OFFICIAL["0.02", "test"], sha256=plain.provenance["test_archive"]["sha256"])
    monkeypatch.setitem(OFFICIAL, ("0.02", "test"), known_test)
    known_main = replace(OFFICIAL["0.02", "main"], sha256=plain.provenance["sha256"])
    monkeypatch.setitem(OFFICIAL, ("0.02", "main"), known_main)
    source = SpeechCommands(all_words, task="v2-12", test_archive=test_archive)
    assert source.provenance["official"] == source.provenance["test_archive"]["official"] == "0.02"
    monkeypatch.delitem(OFFICIAL, ("0.02", "test"))
    monkeypatch.setitem(OFFICIAL, ("0.01", "test"), known_test)
    with pytest.raises(UsageError, match=r"all.tar.gz is for version 0.02, test.tar.gz is for version 0.01"):
        SpeechCommands(all_words, task="v2-12", test_archive=test_archive)
