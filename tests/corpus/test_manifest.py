"""What `open_manifest` promises: recordings where they are, whole or in parts, and every bad line named."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from own_recordings import encoded, sine, word_files
from tiny_corpus import read_all, tone, unpack, wav_file

from kws_dist.corpus.clip import NOISE_WORD
from kws_dist.corpus.manifest import open_manifest
from kws_dist.corpus.recordings import Recordings
from kws_dist.errors import DataError, UsageError

STAIR = np.repeat(np.arange(1, 31, dtype=np.int16) * 100, 1600)  # 3 s, a step each tenth of a second


def rows_of(names: list[str], more: str = "") -> str:
    return "".join(f"{name},{name.split('/')[0]}{more}\n" for name in names)


def csv_list(folder: Path, text: str, **options: object) -> Recordings:
    unpack(folder, word_files() | {"long/session.wav": wav_file(STAIR)})
    (folder / "list.csv").write_text(text)
    return open_manifest(folder / "list.csv", **options)  # pyright: ignore[reportArgumentType]


ALL = sorted(word_files())
WHOLE = "path,word\n" + rows_of(ALL)


def reasons(source: Recordings) -> dict[str, str]:
    return {row.name: row.reason for row in source.rejected}


def test_a_list_of_whole_recordings_gives_what_a_folder_would(tmp_path: Path) -> None:
    source = csv_list(tmp_path, WHOLE)
    assert Counter(clip.split for clip in source.clips) == {"train": 16, "val": 2, "test": 2}
    assert source.words == ("no", "yes")
    np.testing.assert_array_equal(read_all(source)["yes/bob_0"], tone(100, n_samples=400))
    assert (source.provenance["kind"], source.provenance["split_rule"]) == ("manifest", "80/10/10")
    assert (source.provenance["path"], source.rejected) == ("list.csv", ())


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + WHOLE.encode(),
        WHOLE.replace(",", ";").encode(),
        WHOLE.replace(",", "\t").encode("utf-16"),
        WHOLE.replace("\n", "\r\n").replace("path,word", ' "Path" , WORD ').encode(),
        ("\n" + WHOLE.replace("path,word", "path,word,note") + ",,\n").encode(),
    ],
    ids=["marked as UTF-8", "semicolons", "tabs in UTF-16", "from Windows", "blank lines and another column"],
)
def test_tables_as_spreadsheets_write_them_are_read(tmp_path: Path, content: bytes) -> None:
    before = csv_list(tmp_path, WHOLE)
    (tmp_path / "list.csv").write_bytes(content)
    source = open_manifest(tmp_path / "list.csv")
    assert source.clips == before.clips
    assert source.provenance["ignored_columns"] == (["note"] if b"note" in content else [])


def test_json_lines_say_the_same(tmp_path: Path) -> None:
    before = csv_list(tmp_path, "path,word,start,end,speaker\n" + rows_of(ALL, ",0.005,,ann"), split="100/0/0")
    rows = [{"path": n, "word": n.split("/")[0], "start": 0.005, "end": None, "speaker": "ann", "x": 1} for n in ALL]
    (tmp_path / "list.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    source = open_manifest(jsonl=tmp_path / "list.jsonl", split="100/0/0")
    assert source.clips == before.clips
    assert source.clips[0].key == "no/ann_1-5-ms"
    assert source.provenance["ignored_columns"] == ["x"]


def test_parts_of_one_recording_are_clips_of_their_own(tmp_path: Path) -> None:
    text = "path,word,start,end\nlong/session.wav,yes,0.5,1.0\nlong/session.wav,no,1.0,1.75\nlong/session.wav,no,2.9,\n"
    source = csv_list(tmp_path, text, split="100/0/0")
    heard = read_all(source)
    assert list(heard) == ["long/session-1000-1750ms", "long/session-2900-ms", "long/session-500-1000ms"]
    np.testing.assert_array_equal(heard["long/session-500-1000ms"], STAIR[8000:16_000])
    np.testing.assert_array_equal(heard["long/session-2900-ms"], STAIR[46_400:])
    assert {clip.key: clip.word for clip in source.clips}["long/session-500-1000ms"] == "yes"


def test_a_part_of_a_recording_at_another_rate_is_the_same_part(tmp_path: Path) -> None:
    steps = np.repeat(np.arange(1, 31) / 40, 4800)
    unpack(tmp_path, {"a.flac": encoded(steps, 48_000, "FLAC")})
    (tmp_path / "list.csv").write_text('path,word,start,end\na.flac,yes,"0,5",1\n')
    (samples,) = read_all(open_manifest(tmp_path / "list.csv", split="100/0/0")).values()
    assert len(samples) == 8000
    np.testing.assert_allclose(samples[800::1600] / 32_768, np.arange(6, 11) / 40, atol=1e-3)


def test_a_long_part_is_cropped_or_cut_into_windows_that_keep_to_it(tmp_path: Path) -> None:
    text = "path,word,start,end\nlong/session.wav,yes,0.5,2.5\n"
    source = csv_list(tmp_path, text, split="100/0/0", long="crop")
    np.testing.assert_array_equal(source.read(source.clips[0].key), STAIR[24_000:40_000])
    source = open_manifest(tmp_path / "list.csv", split="100/0/0", long="window")
    windows = read_all(source)
    assert list(windows) == ["long/session-1500-2500ms", "long/session-500-1500ms"]
    np.testing.assert_array_equal(np.concatenate(list(windows.values())[::-1]), STAIR[8000:40_000])
    with pytest.raises(UsageError, match=r"--long error: 1 of 1 recordings .* long/session\.wav \(2\.00 s\)"):
        open_manifest(tmp_path / "list.csv", split="100/0/0", long="error")


def test_absolute_paths_may_be_anywhere_and_those_below_the_list_are_as_if_relative(tmp_path: Path) -> None:
    elsewhere = unpack(tmp_path / "elsewhere", {"yes/x.wav": wav_file(tone(1))}) / "yes/x.wav"
    unpack(tmp_path / "here", word_files())
    text = "path,word\n" + "".join(f"{tmp_path}/here/{name},{name.split('/')[0]}\n" for name in ALL)
    (tmp_path / "here/list.csv").write_text(f"{text}{elsewhere},yes\n../elsewhere/./yes/x.wav,yes\n")
    source = open_manifest(tmp_path / "here/list.csv", split="100/0/0")
    assert {"no/ann_1", "yes/bob_0"} <= {clip.key for clip in source.clips}
    assert len(source.clips) == 22
    assert len(read_all(source)) == 22


def test_a_moved_folder_is_the_same_source_and_a_changed_list_is_not(tmp_path: Path) -> None:
    first = csv_list(tmp_path / "a", WHOLE)
    assert csv_list(tmp_path / "b", WHOLE).provenance == first.provenance
    assert csv_list(tmp_path / "c", WHOLE + "\n").provenance != first.provenance


def test_the_split_column_gives_the_splits_by_any_usual_name(tmp_path: Path) -> None:
    text = "path,word,split\n" + "".join(
        f"{name},{name.split('/')[0]},{['Train', 'dev', 'testing'][i % 3]}\n" for i, name in enumerate(ALL)
    )
    source = csv_list(tmp_path, text)
    assert Counter(clip.split for clip in source.clips) == {"train": 7, "val": 7, "test": 6}
    assert source.provenance["split_rule"] == "split column"
    with pytest.raises(UsageError, match=r"--split 80/0/20: --csv .* is already divided by its split column"):
        open_manifest(tmp_path / "list.csv", split="80/0/20")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("yes/bob_0.wav,yes,,,,", r"list\.csv: line 3 has no split and others have one"),
        ("yes/bob_0.wav,yes,,,,tets", r"list\.csv: line 3: there is no split 'tets'; write train, training, val"),
        ("yes/bob_0.wav,yes,,,,test", r"list\.csv: the word 'no' has recordings in train and none in test"),
    ],
)
def test_splits_that_leave_something_out_are_an_error_naming_it(tmp_path: Path, row: str, says: str) -> None:
    header = "path,word,start,end,speaker,split"
    with pytest.raises(UsageError, match=says):
        csv_list(tmp_path, f"{header}\nno/ann_1.wav,no,,,,train\n{row}\nyes/ann_1.wav,yes,,,,train\n")


def test_speakers_are_kept_in_one_split(tmp_path: Path) -> None:
    text = "path,word,speaker\n" + "".join(f"{n},{n.split('/')[0]},{'ann' if 'ann' in n else 'bob'}\n" for n in ALL)
    source = csv_list(tmp_path, text, split="50/0/50")
    assert len({(clip.speaker, clip.split) for clip in source.clips}) == 2
    assert source.provenance["conversions"]["speakers"] == 2
    with pytest.raises(UsageError, match=r"2 speakers cannot fill 3 splits.*leave the speakers out"):
        open_manifest(tmp_path / "list.csv")


def test_noise_needs_no_split_and_is_kept_whole(tmp_path: Path) -> None:
    text = "path,word,split,speaker\n" + rows_of(ALL, ",train,ann") + f"long/session.wav,{NOISE_WORD},,\n"
    source = csv_list(tmp_path, text)
    (noise,) = [clip for clip in source.clips if clip.word == NOISE_WORD]
    assert (noise.split, noise.speaker) == ("noise", "")
    np.testing.assert_array_equal(source.read(noise.key), STAIR)


BAD_ROWS = [
    (",yes,,", "it names no path"),
    ("yes/ann_1.wav,,,", "the name of its word is empty"),
    ("yes/nowhere.wav,yes,,", "there is no such file"),
    ("yes,yes,,", "it is a folder"),
    ("/dev/zero,yes,,", "it is not a plain file"),
    ("list.csv,yes,,", "not a recording that can be read (Format not recognised)"),
    ("yes/ann_1.wav,yes,x,", "its start 'x' is not a number of seconds"),
    ("yes/ann_1.wav,yes,-1,", "its start '-1' is not a number of seconds"),
    ("yes/ann_1.wav,yes,nan,", "its start 'nan' is not a number of seconds"),
    ("yes/ann_1.wav,yes,,x", "its end 'x' is not a number of seconds"),
    ("yes/ann_1.wav,yes,0.01,0.01", "its start 0.01 s is not before its end 0.01 s"),
    ("yes/ann_1.wav,yes,,0.5", "its end 0.5 s lies beyond the end of the recording, 0.025 s"),
    ("yes/ann_1.wav,yes,0.5,", "its start 0.5 s lies beyond the end of the recording, 0.025 s"),
    ("yes/ann_1.wav,yes,,,,,more", "it has 7 fields and the header 4; quote what holds a ','"),
    ("yes/ann_1.wav,a\x07b,,", "the word 'a\\x07b' holds characters that cannot be printed"),
    ("yes/ann_3.wav,no,,", "it is the same as line 13"),
]


def test_every_bad_line_is_listed_by_its_number_with_its_reason_and_the_others_are_used(tmp_path: Path) -> None:
    good = "path,word,start,end\n" + rows_of(ALL, ",,")
    source = csv_list(tmp_path, good + "".join(f"{row}\n" for row, _ in BAD_ROWS))
    assert reasons(source) == {f"list.csv:{22 + i}": reason for i, (_, reason) in enumerate(BAD_ROWS)}
    assert len(source.clips) == 20


def test_a_part_may_end_a_rounding_beyond_the_recording(tmp_path: Path) -> None:
    source = csv_list(tmp_path, "path,word,start,end\nyes/ann_1.wav,yes,0,0.03\n", split="100/0/0")
    assert len(source.read("yes/ann_1-0-30ms")) == 400


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ('{"path": "yes/ann_1.wav", "word": ["yes"]}', "its word is ['yes'], not a text"),
        ('{"path": "yes/ann_1.wav", "word": "yes", "start": true}', "its start True is not a number"),
        ('{"path": "yes/ann_1.wav", "word": "yes", "start": NaN}', "its start nan is not a number"),
        ('{"path": "yes/ann_1.wav\\u0000", "word": "yes"}', "its path holds characters that cannot be printed"),
        ("[" * 100_000, "it is not JSON"),
    ],
)
def test_a_bad_line_of_json_is_listed_by_its_number(tmp_path: Path, line: str, reason: str) -> None:
    unpack(tmp_path, word_files())
    rows = [json.dumps({"path": name, "word": name.split("/")[0]}) for name in ALL]
    (tmp_path / "l.jsonl").write_text("\n".join([*rows[:5], line, *rows[5:]]))
    source = open_manifest(jsonl=tmp_path / "l.jsonl")
    assert reason in reasons(source)["l.jsonl:6"]
    assert len(source.clips) == 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty; the first line names the columns: path, word, start, end, speaker, split"),
        ("file,label\na,b\n", "its first line names no column path and no column word"),
        ("path,word,word\na,b,c\n", "two columns called 'word'"),
        ("path,word\n", "it names no recordings of words"),
        ("path,word\nnone.wav,yes\n", r"1 were left out \(list\.csv:2: there is no such file\)"),
    ],
)
def test_a_list_without_anything_to_use_is_a_usage_error(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"--csv .*list\.csv: .*{says}"):
        csv_list(tmp_path, text)


@pytest.mark.parametrize("content", [b'path,word\n"a,b\nc,d\n', b"path,word\n\xff\xfe\xfa,yes\n"])
def test_a_list_that_is_damaged_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"list\.csv"):
        open_manifest(tmp_path / "list.csv")


def test_exactly_one_list_must_be_given_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either --csv FILE or --jsonl FILE"):
        open_manifest()
    with pytest.raises(UsageError, match=r"--jsonl .*nowhere"):
        open_manifest(jsonl=tmp_path / "nowhere")


def test_many_parts_of_a_file_have_keys_of_their_own_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    unpack(tmp_path, {"a.wav": encoded(sine(3.0, rate_hz=8000), 8000)})
    parts = "".join(f"a.wav,yes,{i / 1000},{i / 1000 + 0.5}\n" for i in range(2000))
    (tmp_path / "list.csv").write_text("path,word,start,end\n" + parts)
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    (tmp_path / "list.csv").open("a").write("pipe.wav,yes,,\n")
    source = open_manifest(tmp_path / "list.csv", split="100/0/0")
    assert len({clip.key for clip in source.clips}) == 2000
    assert reasons(source) == {"list.csv:2002": "it is not a plain file"}


def test_parts_that_overlap_are_never_in_two_splits(tmp_path: Path) -> None:
    rows = "".join(f"long/session.wav,yes,{0.1 * i:.1f},{0.1 * i + 0.5:.1f}\n" for i in range(12))
    with pytest.raises(
        UsageError, match=r"parts of long/session\.wav overlap, such as those from .* give the recording"
    ):
        csv_list(tmp_path, f"path,word,start,end\n{rows}")
    apart = "".join(f"long/session.wav,yes,{0.2 * i:.1f},{0.2 * i + 0.2:.1f}\n" for i in range(10))
    assert len(csv_list(tmp_path, f"path,word,start,end\n{apart}").clips) == 10
    assert len(csv_list(tmp_path, f"path,word,start,end\n{rows}", split="100/0/0").clips) == 12
