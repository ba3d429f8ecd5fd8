"""`tools/predict.py` says what is in recordings, as a table or as JSON lines, and how fast; faults are named."""

import json
import shutil
import signal
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from launching import SMALL, environment, python, run

RATES_HZ = {"a.wav": 16_000, "b.flac": 44_100, "c.ogg": 8_000}


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    run(python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", run_dir, *SMALL))
    return run_dir


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three clips, a recording of 3 s, and one that is none."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, rate_hz in RATES_HZ.items():
        soundfile.write(folder / name, np.sin(np.arange(rate_hz // 2) * 0.05), rate_hz)
    soundfile.write(folder / "long.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 66_150), 22_050)
    (folder / "z.mp3").write_bytes(b"no sound at all" * 100)
    return folder


def test_json_lines_hold_every_file_and_at_last_the_speed(trained: Path, recordings: Path) -> None:
    command = python("tools/predict.py", "--run_dir", trained, recordings, "--json", "--top", "2", "--hop_s", "0.5")
    done = run(command, expect=1)
    *files, last = map(json.loads, done.stdout.splitlines())
    assert [Path(row["file"]).name for row in files] == [*RATES_HZ, "long.wav", "z.mp3"]
    for row in files[:3]:
        assert row["seconds"] == 0.5
        assert row["top"][0] == {"word": row["word"], "score": row["score"]}
        assert len(row["top"]) == 2
        assert {one["word"] for one in row["top"]} <= {"yes", "no", "up"}
    stretches = files[3]["windows"]
    assert stretches[0]["start_s"] == 0
    assert stretches[-1]["end_s"] == pytest.approx(3, abs=1e-3)
    assert all(a["word"] != b["word"] for a, b in pairwise(stretches))
    assert "z.mp3" in files[4]["error"]
    assert files[4]["error"] == done.stderr.strip()
    assert last["speed"]["latency_ms"] > 0
    assert last["speed"]["latency_p95_ms"] > 0
    assert last["speed"]["clips_per_s"] > 0
    assert last["speed"]["batch"] >= 1


def test_what_is_unsure_in_a_long_recording_can_be_left_out(trained: Path, recordings: Path) -> None:
    command = ("tools/predict.py", "--run_dir", trained, recordings / "a.wav", recordings / "long.wav")
    every = json.loads(run(python(*command, "--json")).stdout.splitlines()[1])["windows"]
    least = max(one["score"] for one in every)
    clip, long, _ = map(json.loads, run(python(*command, "--json", "--min_score", str(least))).stdout.splitlines())
    assert long["windows"] == [one for one in every if one["score"] == least]
    assert clip["word"]
    shown = run(python(*command, "--min_score", "1")).stdout.splitlines()
    assert [line.split()[-1] for line in shown if line.endswith("- ") or " -  " in line] == ["-"], "nothing that sure"


def test_a_table_shows_words_scores_times_and_the_speed(trained: Path, recordings: Path) -> None:
    (recordings / "z.mp3").unlink()
    (recordings / "[bold]odd[.wav").write_bytes((recordings / "a.wav").read_bytes())
    done = run(python("tools/predict.py", "--run_dir", trained, "--device", "cpu", recordings, recordings / "a.wav"))
    assert done.stderr == ""
    for part in ("word", "score", "or else", "from", "to", " %", "0.00", "3.00", " ms a clip", "clips/s in batches of"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    text = "".join(line[1:].split("  ")[0] for line in done.stdout.splitlines())  # names are folded in their column
    assert "[bold]odd[.wav" in text


@pytest.mark.parametrize(("how", "lines"), [(("--json",), 1), ((), 0)])
def test_it_ends_in_silence_when_nobody_reads_on(
    trained: Path, recordings: Path, how: tuple[str, ...], lines: int
) -> None:
    """As other programs before `| head`: by SIGPIPE, which a shell reports as 141."""
    command = python("tools/predict.py", "--run_dir", trained, recordings, *how)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        assert one.stdout
        assert one.stderr
        assert all(one.stdout.readline() for _ in range(lines))
        one.stdout.close()
        said = one.stderr.read().splitlines()
        assert one.wait(timeout=60) == -signal.SIGPIPE
    assert [line for line in said if "z.mp3" not in line] == []


def test_a_name_that_the_terminal_cannot_show_is_escaped(trained: Path, recordings: Path) -> None:
    (recordings / "a.wav").rename(recordings / "\u8a9e.wav")
    command = python("tools/predict.py", "--run_dir", trained, recordings)
    latin = {**environment(), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=latin, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, "for z.mp3, which is no recording"
    assert b"\\u8a9e.wav" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_name_cannot_forge_a_line_or_move_the_cursor(trained: Path, recordings: Path) -> None:
    (recordings / "a.wav").rename(recordings / "\x1b[2Ja\nstop.wav")
    (recordings / "z.mp3").rename(recordings / "\x1b[31mz\n.mp3")
    done = run(python("tools/predict.py", "--run_dir", trained, recordings), expect=1)
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\x1b[2Ja\nstop.wav" in "".join(line[1:].split("  ")[0] for line in done.stdout.splitlines())
    assert len(done.stderr.splitlines()) == 1
    assert r"\x1b[31mz\n.mp3" in done.stderr


def test_a_run_that_was_stopped_is_used_and_said_to_be_so(trained: Path, recordings: Path, tmp_path: Path) -> None:
    stopped = shutil.copytree(trained, tmp_path / "stopped")
    (stopped / "state.json").write_text('{"status": "stopped", "step": 2}')
    done = run(python("tools/predict.py", "--run_dir", stopped, recordings / "a.wav", "--json"))
    assert done.stderr == f"{stopped} has not reached the end of its training: this is its best model so far\n"
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("{recordings}/nowhere.wav",), "nowhere.wav"),
        (("{recordings}", "--hop_s", "2"), "--hop_s 2"),
        (("{recordings}", "--top", "0"), "--top 0"),
        (("{recordings}", "--min_score", "50"), "--min_score 50"),
        (("{recordings}", "--run_dir", "{recordings}"), "no trained model"),
        ((), "name recordings"),
    ],
)
def test_wrong_use_is_one_sentence(trained: Path, recordings: Path, arguments: tuple[str, ...], word: str) -> None:
    given = [argument.format(recordings=recordings) for argument in arguments]
    error = run(python("tools/predict.py", "--run_dir", trained, *given), expect=2).stderr.strip()
    assert word in error
    assert len(error.splitlines()) == 1, error


@pytest.mark.real_data
def test_real_recordings_of_two_words_are_told_apart(real_data: Path, tmp_path: Path) -> None:
    """Trained on 'yes' and 'stop' for some seconds, and asked about the files of the archive that are for the test."""
    archive, shards, run_dir = real_data / "speech_commands_real10.tar.gz", tmp_path / "shards", tmp_path / "run"
    made = ("speech-commands", "--archive", archive, "--words", "yes,stop", "--workers", "1")
    run(python("tools/make_shards.py", *made, "--out", shards))
    model = ("--model.name", "gru", "--model.params", "hidden", "24", "layers", "1", "--features.normalize", "clip")
    train = ("--train.epochs", "2", "--train.optimizer", "adam", "--train.learning_rate", "0.01")
    batch = ("--train.global_batch", "32", "--train.warmup_epochs", "0", "--train.ema_decay", "0")
    run(python("launch/train.py", "--data.shards", shards, "--run_dir", run_dir, *model, *train, *batch))
    test = json.loads((run_dir / "result.json").read_text())["test"]
    with tarfile.open(archive) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        listed = tar.extractfile(members["testing_list.txt"]).read().decode().split()  # pyright: ignore
        wanted = [name for name in listed if name.startswith(("yes/", "stop/"))]
        for name in wanted:
            (tmp_path / "heard" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "heard" / name).write_bytes(tar.extractfile(members[name]).read())  # pyright: ignore
    done = run(python("tools/predict.py", "--run_dir", run_dir, "--json", tmp_path / "heard"))
    heard = [json.loads(line) for line in done.stdout.splitlines()][:-1]
    assert len(heard) == test["n"]
    assert sum(Path(row["file"]).parent.name == row["word"] for row in heard) == test["correct"]
    assert test["accuracy"] > 0.8
