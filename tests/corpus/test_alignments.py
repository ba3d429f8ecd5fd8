"""What `read_alignments` promises: both forms say the same, and what cannot be read is named, never half read."""

import re
from pathlib import Path

import pytest
from librispeech_tree import grid, plain_line, tell, write_grids, write_plain

from kws_dist.corpus.alignments import Alignment, folded, read_alignments
from kws_dist.corpus.textgrid import interval_tier
from kws_dist.errors import UsageError

pytest.importorskip("espeakng_loader")

GO = '84-121123-0000 ",GO,,DO,YOU,HEAR," "0.490,0.890,1.270,1.380,1.490,2.000,2.4"'


def content(found: Alignment) -> tuple[list[tuple[str, float, float]], float]:
    return list(zip(found.words, found.starts_s, found.ends_s, strict=True)), found.end_s


def plain(folder: Path, text: str | bytes, name: str = "84-121123.alignment.txt") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def tier(text: str) -> list[tuple[str, float, float]]:
    return [tuple(interval) for interval in interval_tier(text, lambda name: name == "words").intervals]


def test_a_word_begins_where_what_is_before_it_ends(tmp_path: Path) -> None:
    found = read_alignments(plain(tmp_path, GO + "\n"))
    words = [("go", 0.49, 0.89), ("do", 1.27, 1.38), ("you", 1.38, 1.49), ("hear", 1.49, 2.0)]
    assert content(found.of_utterance["84-121123-0000"]) == (words, 2.4)
    assert found.of_utterance["84-121123-0000"].where == "84-121123.alignment.txt:1"
    assert (found.rejected, found.unusable) == ([], set())


def test_both_forms_of_alignments_and_of_textgrids_say_the_same(tmp_path: Path) -> None:
    told = [tell("84-7-0000", "dev-clean", "yes , no"), tell("84-7-0001", "dev-clean", "don't stop")]
    forms = [
        write_plain(tmp_path / "plain", told),
        write_grids(tmp_path / "long", told, short=False),
        write_grids(tmp_path / "short", told, short=True),
        write_grids(tmp_path / "eps", told, short=True, silence="<eps>"),
    ]
    read = [read_alignments(folder).of_utterance for folder in forms]
    for one in told:
        expected = [(text.lower(), start_ms / 1000, end_ms / 1000) for text, start_ms, end_ms in one.intervals if text]
        assert all(content(found[one.id]) == (expected, one.end_ms / 1000) for found in read)


@pytest.mark.parametrize("silence", ["", "sil", "SIL", "sp", "<eps>", "<unk>", "spn"])
def test_what_aligners_write_for_silence_and_for_the_unknown_is_no_word(tmp_path: Path, silence: str) -> None:
    folder = plain(tmp_path, f'1-2-3 "{silence},GO,{silence}" "0.5,0.9,1.0"\n')
    assert read_alignments(folder).of_utterance["1-2-3"].words == ("go",)


def test_words_are_the_same_however_they_are_written() -> None:
    assert folded("DON'T") == folded("don\u2019t") == folded(" Don't ") == "don't"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_textgrid_may_be_in_any_encoding_that_praat_writes(tmp_path: Path, encoding: str) -> None:
    one = tell("84-7-0000", "dev-clean", "yes")
    (tmp_path / "84-7-0000.TextGrid").write_text(grid(one, short=False), encoding=encoding)
    assert read_alignments(tmp_path).of_utterance["84-7-0000"].words == ("yes",)


def test_the_tier_may_bear_the_name_of_the_speaker(tmp_path: Path) -> None:
    one = tell("84-7-0000", "dev-clean", "yes")
    (tmp_path / "84-7-0000.TextGrid").write_text(grid(one, short=True).replace('"words"', '"84 - words"'))
    assert read_alignments(tmp_path).of_utterance["84-7-0000"].words == ("yes",)


def test_where_an_utterance_has_both_forms_the_plain_one_is_used(tmp_path: Path) -> None:
    one = tell("84-7-0000", "dev-clean", "yes")
    write_grids(write_plain(tmp_path, [one]), [one], short=True)
    found = read_alignments(tmp_path)
    assert found.of_utterance[one.id].where == "dev-clean/84/7/84-7.alignment.txt:1"
    assert found.rejected == []


def test_praats_free_form_with_comments_quotes_and_points_is_read() -> None:
    text = (
        'File type = "ooTextFile short"\n"TextGrid"\n! a comment with "quotes" and 7\n0 3 <exists> 2\n'
        '"TextTier" "beeps" 0 3 1  1.5 "beep"\n"IntervalTier" "words" 0 3 2 0 1e0 "say ""no""" 1 3 ""\n'
    )
    assert tier(text) == [('say "no"', 0.0, 1.0), ("", 1.0, 3.0)]


@pytest.mark.parametrize("short", [True, False])
def test_a_textgrid_that_is_cut_off_anywhere_is_an_error_and_not_fewer_words(short: bool) -> None:
    whole = grid(tell("84-7-0000", "dev-clean", "yes , no"), short=short)
    words = tier(whole)
    for length in range(len(whole.rstrip())):
        with pytest.raises(ValueError, match=r"cut off|not a TextGrid|should be"):
            tier(whole[:length])
    assert tier(whole.rstrip()) == words
    assert len(words) == 5


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"yes"', "", "is where a text should be"),
        ("0.12\n", "soon\n", "cut off|should be"),
        ('"words"', '"phones"', r"none of its tiers holds words \(there are 'phones', 'phones'\)"),
        ("ooTextFile", "ooBinaryFile", "not a TextGrid in text form"),
        ("<exists>\n2", "<exists>\n2.5", "2.5 is where a count should be"),
    ],
)
def test_a_textgrid_that_makes_no_sense_says_why(old: str, new: str, says: str) -> None:
    text = grid(tell("84-7-0000", "dev-clean", "yes"), short=True)
    assert old in text
    with pytest.raises(ValueError, match=says):
        tier(text.replace(old, new))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("84-121123-0001", "is not a line of the form"),
        ('84-121123-0001 ",GO," "0.1,0.2,0.3', "is not a line of the form"),
        ('84-121123-0001 ",GO" "0.1,0.2,0.3"', "2 words, counting silences, and 3 times"),
        ('84-121123-0001 ",GO" "0.1,soon"', "a time is not a number.*soon"),
        ('84-121123-0001 ",GO" "0.1,nan"', "do not increase"),
        ('84-121123-0001 ",GO" "0.1,inf"', "do not increase"),
        ('84-121123-0001 ",GO" "-0.1,0.2"', "do not increase"),
        ('84-121123-0001 ",GO,,ON" "0.1,0.5,0.4,0.9"', "its times do not increase: '' is from 0.5 to 0.4 s"),
        (GO, "84-121123-0000 is aligned already, by 84-121123.alignment.txt:1"),
    ],
)
def test_a_line_that_makes_no_sense_is_rejected_by_its_number_and_the_others_are_kept(
    tmp_path: Path, line: str, says: str
) -> None:
    last = GO.replace("-0000", "-0002")
    found = read_alignments(plain(tmp_path, f"{GO}\n\n{line}\n{last}"))
    assert sorted(found.of_utterance) == ["84-121123-0000", "84-121123-0002"]
    [row] = found.rejected
    assert row.name == "84-121123.alignment.txt:3"
    assert re.search(says, row.reason)


def test_a_file_that_cannot_be_read_is_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    plain(tmp_path, GO)
    plain(tmp_path, b"\xff\xfe\x00\xd8", "1-2-3.TextGrid")
    plain(tmp_path, b"\xff\xff", "5-6.alignment.txt")
    plain(tmp_path, grid(tell("7-8-9", "", "yes"), short=True)[:100], "7-8-9.TextGrid")
    plain(tmp_path, "x", "._84-121123.alignment.txt")
    found = read_alignments(tmp_path)
    assert sorted(found.of_utterance) == ["84-121123-0000"]
    assert [row.name for row in found.rejected] == ["5-6.alignment.txt", "1-2-3.TextGrid", "7-8-9.TextGrid"]
    assert "not a text file" in found.rejected[0].reason
    assert found.unusable == {"1-2-3", "7-8-9"}


def test_a_folder_without_alignments_is_wrong_use(tmp_path: Path) -> None:
    for folder, says in [(tmp_path / "nowhere", "no such folder"), (tmp_path, "no word alignments that can be read")]:
        with pytest.raises(UsageError, match=rf"--alignments .*{says}"):
            read_alignments(folder)
    plain(tmp_path, "x")
    with pytest.raises(UsageError, match=r"84-121123.alignment.txt:1: it is not a line"):
        read_alignments(tmp_path)


def test_the_checksum_is_that_of_the_contents(tmp_path: Path) -> None:
    line = plain_line(tell("84-7-0000", "dev-clean", "yes"))
    sums = [
        read_alignments(plain(tmp_path / name, text)).sha256 for name, text in [("a", line), ("b", line), ("c", GO)]
    ]
    assert sums[0] == sums[1] != sums[2]
