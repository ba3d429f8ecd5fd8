"""What `assign_splits` promises: every word in every split, no speaker in two, sizes near to the shares."""

import random
from collections import Counter, defaultdict
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.corpus.splits import Spoken, assign_splits, check_splits, parse_shares, split_of_name
from kws_dist.errors import UsageError

SHARES = st.sampled_from(["80/10/10", "70/20/10", "50/0/50", "80/0/20", "1/1/1", "98/1/1", "0/50/50", "100/0/0"])


def corpus(words: int, per_word: int, speakers: int = 0) -> list[Spoken]:
    """`per_word` recordings of each word; the speakers, if any, take turns."""
    return [
        Spoken(f"word{word}/{i}.wav", f"word{word}", f"speaker{i % speakers}" if speakers else "")
        for word in range(words)
        for i in range(per_word)
    ]


def counts(recordings: list[Spoken], splits: dict[str, str]) -> dict[str, Counter[str]]:
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for one in recordings:
        held[one.word][splits[one.name]] += 1
    return held


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("80/10/10", {"train": 0.8, "val": 0.1, "test": 0.1}),
        ("50/0/50", {"train": 0.5, "test": 0.5}),
        ("0/0/7", {"test": 1.0}),
        ("2/1.5/0.5", {"train": 0.5, "val": 0.375, "test": 0.125}),
    ],
)
def test_shares_add_up_to_one_and_a_zero_leaves_a_split_out(text: str, shares: dict[str, float]) -> None:
    assert parse_shares(text) == pytest.approx(shares)


@pytest.mark.parametrize("text", ["", "80", "80/20", "80/10/10/0", "a/b/c", "-1/1/1", "0/0/0", "nan/1/1", "inf/1/1"])
def test_shares_that_mean_nothing_are_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=rf"--split {text}: .*--split 80/10/10"):
        parse_shares(text)


@given(st.lists(st.integers(3, 60), min_size=1, max_size=5), SHARES)
@settings(deadline=None)
def test_without_speakers_every_word_is_divided_to_within_one_recording(per_word: list[int], text: str) -> None:
    shares = parse_shares(text)
    recordings = [Spoken(f"{w}/{i}", f"{w}") for w, count in enumerate(per_word) for i in range(count)]
    for word, held in counts(recordings, assign_splits(recordings, shares)).items():
        exact = {split: share * per_word[int(word)] for split, share in shares.items()}
        small = {split for split in shares if exact[split] < 1}
        assert all(held[split] == 1 for split in small)
        assert all(abs(held[split] - exact[split]) <= 1 + len(small) for split in set(shares) - small)
        assert small or all(abs(held[split] - exact[split]) < 1 for split in shares)


SPEAKERS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["", "ann", "bob", "cid", "dee", "eve"])), min_size=1, max_size=24
)


@given(SPEAKERS, SHARES, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=300)
def test_either_every_word_is_in_every_split_and_no_speaker_in_two_or_that_cannot_be(
    rows: list[tuple[int, str]], text: str, shuffling: random.Random
) -> None:
    shares = parse_shares(text)
    recordings = [Spoken(f"{i}.wav", f"word{word}", speaker) for i, (word, speaker) in enumerate(rows)]
    try:
        splits = assign_splits(recordings, shares)
    except UsageError:
        assert not possible(recordings, list(shares))
        return
    assert splits.keys() == {one.name for one in recordings}
    assert all(set(held) == set(shares) for held in counts(recordings, splits).values())
    of_speaker = {(one.speaker, splits[one.name]) for one in recordings if one.speaker}
    assert len(of_speaker) == len({speaker for speaker, _ in of_speaker})
    shuffling.shuffle(recordings)
    assert assign_splits(recordings, shares) == splits


def possible(recordings: list[Spoken], splits: list[str]) -> bool:
    """Whether some way of dealing out the speakers has every word in every split, by trying them all."""
    speakers = sorted({one.speaker for one in recordings} - {""})
    loose = Counter(one.word for one in recordings if not one.speaker)
    words = {one.word for one in recordings}
    for dealt in product(splits, repeat=len(speakers)):
        of = dict(zip(speakers, dealt, strict=True))
        there = {(one.word, of[one.speaker]) for one in recordings if one.speaker}
        if all(sum((word, split) not in there for split in splits) <= loose[word] for word in words):
            return True
    return False


def test_many_speakers_come_near_to_the_shares_in_every_word() -> None:
    recordings = [
        Spoken(f"{word}/{speaker}_{i}", f"word{word}", f"speaker{speaker}")
        for speaker in range(300)
        for word in range(8)
        for i in range(1 + (speaker * 7 + word) % 5)
    ]
    splits = assign_splits(recordings, parse_shares("80/10/10"))
    for held in counts(recordings, splits).values():
        assert held["train"] / held.total() == pytest.approx(0.8, abs=0.01)
        assert held["val"] / held.total() == pytest.approx(0.1, abs=0.01)


def test_the_largest_speakers_train_when_there_are_few() -> None:
    sizes = {"ann": 50, "bob": 30, "cid": 10, "dee": 10}
    recordings = [Spoken(f"{who}{i}", "yes", who) for who, count in sizes.items() for i in range(count)]
    held = counts(recordings, assign_splits(recordings, parse_shares("80/10/10")))["yes"]
    assert held == {"train": 80, "val": 10, "test": 10}


def test_a_recording_more_leaves_nearly_all_others_where_they_were() -> None:
    before, after = corpus(2, 200), corpus(2, 201)
    old, new = assign_splits(before, parse_shares("80/10/10")), assign_splits(after, parse_shares("80/10/10"))
    assert sum(old[name] != new[name] for name in old) <= 4
    assert Counter(old.values()) == {"train": 320, "val": 40, "test": 40}


def test_two_speakers_for_three_splits_are_told_what_would_do() -> None:
    with pytest.raises(UsageError, match=r"2 speakers cannot fill 3 splits.*--split 50/0/50, or leave --speaker_from"):
        assign_splits(corpus(3, 10, speakers=2), parse_shares("80/10/10"))
    splits = assign_splits(corpus(3, 10, speakers=2), parse_shares("50/0/50"))
    assert Counter(splits.values()) == {"train": 15, "test": 15}


def test_a_word_with_too_few_recordings_is_named() -> None:
    with pytest.raises(UsageError, match=r"'rare' has 2 recordings, too few for train, val and test; .*--words"):
        assign_splits([*corpus(2, 9), Spoken("a", "rare"), Spoken("b", "rare")], parse_shares("80/10/10"))


def test_words_that_no_dealing_brings_together_are_named() -> None:
    # Each word has three speakers, and no three-way division of four speakers gives each word all three splits.
    who = {"a": "123", "b": "124", "c": "134", "d": "234"}
    recordings = [Spoken(f"{word}{speaker}", word, speaker) for word in who for speaker in who[word]]
    with pytest.raises(UsageError, match=r"the word '[abcd]' would be missing in (train|val|test); ask for fewer"):
        assign_splits(recordings, parse_shares("1/1/1"))


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Training", "train"), ("dev", "val"), ("valid", "val"), ("TEST", "test"), ("trains", None)],
)
def test_splits_go_by_the_names_people_give_them(name: str, split: str | None) -> None:
    assert split_of_name(name) == split


def test_given_splits_must_hold_every_word_and_a_shared_speaker_is_counted() -> None:
    recordings = [Spoken("1", "yes", "ann"), Spoken("2", "yes", "ann"), Spoken("3", "no", "bob"), Spoken("4", "no")]
    assert check_splits(recordings, {"1": "train", "2": "test", "3": "train", "4": "test"}, "x") == 1
    assert check_splits(recordings, dict.fromkeys("1234", "test"), "x") == 0
    with pytest.raises(UsageError, match=r"here: the word 'no' has recordings in train and none in test; .*--words"):
        check_splits(recordings, {"1": "train", "2": "test", "3": "train", "4": "train"}, "here")
