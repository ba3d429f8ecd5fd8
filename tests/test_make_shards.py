"""`tools/make_shards.py` as it is used: run as a program, on real recordings, killed, and run again."""

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import soundfile
from archive_server import serving
from tiny_corpus import content_of, files, pack, tone, wav_file

from kws_dist.corpus.download import OFFICIAL, OfficialArchive
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.shards.read import open_dataset
from kws_dist.shards_job import Output, fetched, make

TOOL = Path(__file__).parents[1] / "tools" / "make_shards.py"
REAL = "speech_commands_real10.tar.gz"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(TOOL), *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment, check=False)


def test_an_archive_becomes_shards_and_a_table_of_what_is_in_them(tiny_archive: Path, tmp_path: Path) -> None:
    made = run("speech-commands", "--archive", tiny_archive, "--words", "up,yes", "--out", tmp_path / "out")
    assert (made.returncode, made.stderr) == (0, "")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.words == ("up", "yes")
    assert dataset.meta["task"] == "speech-commands 2 words"
    assert dataset.meta["command"][2:4] == ["speech-commands", "--archive"]
    for shown in (dataset.digest, "14", "2 noise clips", "clips/s", str(tmp_path / "out")):
        assert shown in made.stdout
    again = run("speech-commands", "--archive", tiny_archive, "--words", "up,yes", "--out", tmp_path / "out")
    assert again.returncode == 0
    assert "was complete already" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["speech-commands", "--archive", "nowhere.tar.gz"], 2, "--archive nowhere.tar.gz: there is no such file"),
        (["speech-commands"], 2, "pass either --archive FILE.tar.gz or --root DIR"),
        (["speech-commands", "--archive", TOOL], 1, f"{TOOL}: not a complete .tar.gz archive"),
        (["speech-commands", "--archive", "TINY", "--words", "yes,,no"], 2, "a word is missing between two commas"),
        (["speech-commands", "--archive", "TINY", "--words", "yes,maybe"], 2, "'maybe'"),
        (["speech-commands", "--archive", "TINY", "--shard_clips", "0"], 2, "--shard_clips 0"),
        (["speech-commands", "--archive", "TINY", "--out", "/dev/null/x"], 1, "/dev/null/x: Not a directory"),
        (["speech-commands", "--archive", "TINY", "--task", "v2-12"], 2, "'down'"),
        (["speech-commands", "--archive", "TINY", "--download"], 2, "--download takes the place of --archive"),
        (["speech-commands", "--archive", "TINY", "--workers", "-1"], 2, "--workers -1"),
        (["speech-commands", "--archive", "TINY", "--task_index", "2", "--task_count", "2"], 2, "0 to 1"),
        (["folder", "--root", "nowhere"], 2, "--root nowhere"),
        (["manifest"], 2, "--csv"),
        (
            ["librispeech", "--root", "nowhere", "--alignments", "nowhere", "--words", "yes"],
            2,
            "nowhere: there is no such",
        ),
        (["synth", "--words", "yes,yes"], 2, "'yes' is given twice"),
        (["merge"], 2, "no parts of a dataset are in it"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(
    tiny_archive: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    arguments = [str(tiny_archive) if argument == "TINY" else argument for argument in arguments]
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    made = run(*arguments, *out)
    assert made.returncode == code
    assert says in made.stderr
    assert made.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    made = run("speech-commands", "--archive", "nowhere.tar.gz", "--out", tmp_path / "out", "--debug")
    assert made.returncode == 1
    assert "Traceback" in made.stderr


@pytest.mark.parametrize("flag", ["--shard-clip", "--sed"])
def test_a_mistyped_flag_is_wrong_use(tmp_path: Path, flag: str) -> None:
    assert run("speech-commands", "--out", tmp_path / "out", flag, "1").returncode == 2


@pytest.mark.real_data
def test_real_recordings_killed_on_the_way_and_run_again_give_the_same_bytes(real_data: Path, tmp_path: Path) -> None:
    archive = real_data / REAL
    arguments = ["speech-commands", "--archive", archive, "--words", "yes,no,up", "--shard_clips", 200, "--out"]
    made = run(*arguments, tmp_path / "whole")
    assert made.returncode == 0
    whole = open_dataset(tmp_path / "whole")
    assert whole.meta["clips"] == {"train": 1440, "val": 180, "test": 480, "noise": 6}

    out = tmp_path / "killed"
    with subprocess.Popen(command(*arguments, out)) as child:
        while not (out / "train-000001.tar").exists():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended before it could be killed, with code {child.wait(timeout=0.005)}")
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (out / "dataset.json").exists()

    continued = run(*arguments, out)
    assert "shards were there already" in continued.stdout
    of_whole, of_killed = content_of(tmp_path / "whole"), content_of(out)
    assert of_whole.pop("dataset.json") != of_killed.pop("dataset.json"), "they differ in the command alone"
    assert of_killed == of_whole
    assert open_dataset(out).digest == whole.digest


def test_the_synthesiser_makes_shards_too(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    made = run("synth", "--words", "yes,no", "--voices", 6, "--per_word", 12, "--out", tmp_path / "out")
    assert (made.returncode, made.stderr) == (0, "")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.words == ("yes", "no")
    assert sum(dataset.meta["clips"][split] for split in ("train", "val", "test")) == 24


def test_a_dry_run_shows_what_would_be_written_and_writes_nothing(tiny_archive: Path, tmp_path: Path) -> None:
    made = run("speech-commands", "--archive", tiny_archive, "--out", tmp_path / "out", "--dry_run")
    assert (made.returncode, made.stderr) == (0, "")
    assert "train/val/test/noise = 21/6/9/2 clips" in made.stdout
    assert not (tmp_path / "out").exists()


def test_a_twelve_class_set_has_silence_and_unknown(tmp_path: Path) -> None:
    words = ("yes", "no", "up", "bed", "cat")
    content = files(words, speakers=40, noises=0)
    content |= {f"_background_noise_/hum {i}.wav": wav_file(tone(600 + i, n_samples=400_000)) for i in range(2)}
    archive, out = pack(tmp_path / "a.tar.gz", content), tmp_path / "out"
    made = run(
        "speech-commands", "--archive", archive, "--words", "yes,no,up", "--unknown", "rule", "--silence", "--out", out
    )
    assert (made.returncode, made.stderr) == (0, "")
    meta = open_dataset(out).meta
    assert meta["words"] == ["_silence_", "_unknown_", "yes", "no", "up"]
    assert meta["clips_per_word"]["train"] == {"_silence_": 11, "_unknown_": 11, "yes": 35, "no": 35, "up": 35}
    assert meta["clips_per_word"]["test"] == {"_silence_": 1, "_unknown_": 1, "yes": 3, "no": 3, "up": 3}


def my_recordings(folder: Path) -> Path:
    """Two words by six people in several formats, one recording of which is damaged."""
    for number, (word, speaker) in enumerate((w, s) for w in ("ja", "nein") for s in ("ann", "bob", "cy", "di", "ed")):
        (folder / word).mkdir(parents=True, exist_ok=True)
        for take in range(3):
            samples = tone(10 * number + take, n_samples=6000)
            suffix, rate_hz = [("wav", 8000), ("flac", 44_100), ("ogg", 16_000)][take]
            soundfile.write(folder / word / f"{speaker}_{take}.{suffix}", samples, rate_hz)
    (folder / "ja" / "ann_9.wav").write_bytes(b"RIFF")
    (folder / "ja" / "ann_8.m4a").write_bytes(b"....ftypM4A ")
    return folder


def test_a_folder_of_ones_own_becomes_shards_and_says_what_it_left_out(tmp_path: Path) -> None:
    root, out = my_recordings(tmp_path / "mine"), tmp_path / "out"
    made = run("folder", "--root", root, "--speaker_from", "^([a-z]+)_", "--split", "60/20/20", "--out", out)
    assert (made.returncode, made.stderr) == (0, "")
    dataset = open_dataset(out)
    assert dataset.words == ("ja", "nein")
    assert dataset.meta["clips"] == {"train": 18, "val": 6, "test": 6, "noise": 0}
    assert "2 left out; all are in" in made.stdout
    assert "ann_8.m4a" in made.stdout
    assert "ann_9.wav" in made.stdout
    assert len((out / "rejected.jsonl").read_text().splitlines()) == dataset.meta["rejected"] == 2


def test_a_manifest_becomes_shards(tmp_path: Path) -> None:
    root, out = my_recordings(tmp_path / "mine"), tmp_path / "out"
    rows = [f"mine/{path.parent.name}/{path.name},{path.parent.name}" for path in sorted(root.rglob("*_?.[wfo]*"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,word", *rows, "mine/ja/nobody.wav,ja"]))
    made = run("manifest", "--csv", tmp_path / "list.csv", "--out", out)
    assert (made.returncode, made.stderr) == (0, "")
    assert sum(open_dataset(out).meta["clips"].values()) == 30
    assert "2 left out" in made.stdout


def test_an_array_of_jobs_and_a_merge_give_the_same_bytes_as_one_job(tiny_archive: Path, tmp_path: Path) -> None:
    arguments = ["speech-commands", "--archive", tiny_archive, "--shard_clips", 8, "--out"]
    assert run(*arguments, tmp_path / "whole").returncode == 0
    jobs = [
        subprocess.Popen(command(*arguments, tmp_path / "parts", "--task_index", i, "--task_count", 3))
        for i in range(3)
    ]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    merged = run("merge", "--out", tmp_path / "parts")
    assert (merged.returncode, merged.stderr) == (0, "")
    of_whole, of_parts = content_of(tmp_path / "whole"), content_of(tmp_path / "parts")
    assert of_whole.pop("dataset.json") != of_parts.pop("dataset.json"), "they differ in the command alone"
    assert of_parts == of_whole
    assert "--task_index" not in " ".join(open_dataset(tmp_path / "parts").meta["command"])


def test_a_download_that_is_not_the_published_archive_is_refused(tmp_path: Path) -> None:
    with serving(b"something else") as server:
        made = run(
            *("speech-commands", "--version", "0.02", "--download", "--base_url", server.url),
            *("--cache", tmp_path / "cache", "--out", tmp_path / "out"),
        )
    assert made.returncode == 1
    assert server.url in made.stderr
    assert made.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache" / "speech_commands_v0.02.tar.gz").exists()


def test_a_download_is_used_like_an_archive(
    tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tiny_archive.read_bytes()
    published = OfficialArchive(name="a.tar.gz", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(OFFICIAL, ("0.02", "main"), published)
    with serving(content) as server:
        archive, test_archive = fetched("0.02", server.url, tmp_path / "cache", with_test=False)
    assert (archive.read_bytes(), test_archive) == (content, None)
    make(lambda: SpeechCommands(archive), "speech-commands", Output(out=tmp_path / "out", workers=1))
    assert "3 words, train/val/test/noise = 21/6/9/2 clips" in capsys.readouterr().out


@pytest.mark.real_data
def test_a_zip_of_ones_own_recordings_is_a_trainable_set_in_one_command(real_data: Path, tmp_path: Path) -> None:
    made = run("folder", "--root", real_data / "my_digits.zip", "--out", tmp_path / "out")
    assert (made.returncode, made.stderr) == (0, "")
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset.words) == 10
    assert dataset.splits == ("train", "val", "test")
    assert sum(dataset.meta["clips"].values()) == 600
    assert "600 resampled" in made.stdout


def on_a_terminal(*arguments: object, program: str = "") -> str:
    """Run the tool with a terminal of 100 columns as its output, and return all that is shown on it."""
    terminal, inner = os.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    start = [sys.executable, "-c", program, *map(str, arguments)] if program else command(*arguments)
    with subprocess.Popen(start, stdout=inner, stderr=inner, env=environment) as child:
        os.close(inner)
        shown = bytearray()
        with suppress(OSError):  # what reading a terminal ends with when nobody writes to it any more
            while chunk := os.read(terminal, 65536):
                shown += chunk
        assert child.wait() == 0
    os.close(terminal)
    return shown.decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_on_a_terminal_a_bar_counts_every_clip(tiny_archive: Path, tmp_path: Path, workers: int) -> None:
    arguments = ["--archive", tiny_archive, "--out", tmp_path / "out", "--shard_clips", 8, "--workers", workers]
    assert "38/38" in on_a_terminal("speech-commands", *arguments)


def test_a_download_and_a_listing_take_turns_on_a_terminal(tiny_archive: Path, tmp_path: Path) -> None:
    content = tiny_archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    published = f"name='a.tar.gz', size_bytes={len(content)}, sha256='{sha256}'"
    program = (
        "import runpy; from kws_dist.corpus import download as d;"
        f"d.OFFICIAL['0.02', 'main'] = d.OfficialArchive({published});"
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    )
    with serving(content) as server:
        flags = ["--download", "--words", "yes,no", "--base_url", server.url, "--cache", tmp_path / "cache"]
        shown = on_a_terminal("speech-commands", *flags, "--out", tmp_path / "out", program=program)
    assert "its SHA-256 is the published one" in shown
    assert "2 words, train/val/test/noise" in shown
