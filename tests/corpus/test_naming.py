"""What names promise: keys that any tool can hold, one for each recording, and words that compare equal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws_dist.corpus.naming import fault_of_word, key_of, keys_of, keys_of_parts, word_list, word_of
from kws_dist.errors import UsageError

KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=120)


def test_a_plain_name_is_its_own_key_without_the_suffix() -> None:
    assert key_of("yes/004ae714_nohash_0.wav") == "yes/004ae714_nohash_0"
    assert key_of("train/yes/a-1.FLAC") == "train/yes/a-1"


def test_names_in_other_scripts_get_different_keys() -> None:
    keys = keys_of(["да/1.wav", "не/1.wav", "你好/1.wav", "übung/a b.wav", "übung/a_b.wav"])
    assert len(set(keys.values())) == 5
    assert all(KEY.fullmatch(key) for key in keys.values())


@given(st.lists(NAMES, unique=True, max_size=12))
def test_any_names_get_plain_keys_of_bounded_length_all_different(names: list[str]) -> None:
    keys = keys_of(names)
    assert list(keys) == names
    assert len(set(keys.values())) == len(names)
    assert all(KEY.fullmatch(key) and len(key) <= 120 for key in keys.values())


def test_a_key_does_not_depend_on_the_other_names_unless_they_would_share_it() -> None:
    assert keys_of(["yes/a.wav", "no/b.wav"])["yes/a.wav"] == keys_of(["yes/a.wav"])["yes/a.wav"] == "yes/a"
    both = keys_of(["yes/a.wav", "yes/a.flac"])
    assert all(re.fullmatch(r"yes/a-[0-9a-f]{12}", key) for key in both.values())
    assert both["yes/a.wav"] != both["yes/a.flac"]


def test_parts_of_a_recording_are_told_apart_by_their_times() -> None:
    keys = keys_of_parts([("a.wav", 0.0, None), ("a.wav", 0.5, 1.25), ("a.wav", 2.0, None), ("a.wav", 0.5, 1.2502)])
    assert keys["a.wav", 0.0, None] == "a"
    assert keys["a.wav", 2.0, None] == "a-2000-ms"
    close = {keys["a.wav", 0.5, 1.25], keys["a.wav", 0.5, 1.2502]}
    assert len(close) == 2
    assert all(key.startswith("a-500-1250ms-") for key in close)


def test_a_word_is_the_same_however_its_accents_are_coded() -> None:
    assert word_of("  u\u0308bung ") == word_of("\u00fcbung") == "\u00fcbung"
    assert word_list("--words", "u\u0308bung, ja") == ["\u00fcbung", "ja"]


@pytest.mark.parametrize(("word", "says"), [("", "empty"), ("a\x07b", "printed"), ("a" * 65, "longer than 64")])
def test_a_word_that_cannot_be_used_is_told_why(word: str, says: str) -> None:
    assert says in (fault_of_word(word) or "")


@pytest.mark.parametrize("words", ["yes,,no", "", "yes,no,yes"])
def test_a_list_of_words_with_a_gap_or_a_repetition_names_the_flag(words: str) -> None:
    with pytest.raises(UsageError, match="--words"):
        word_list("--words", words)
