"""What a training says when it ends or is stopped by Ctrl-C: commands that work as they are printed."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, SMALL, environment, python, run, two_ranks
from terminal import Terminal
from tiny_corpus import tone, wav_file

ONE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", str(ROOT / "launch/train.py")]
LONG = ("--train.epochs", "100000")


def commands(lines: list[str], after: str) -> list[str]:
    """Return the commands that are printed after a line, as a shell would read them."""
    start = next(number for number, line in enumerate(lines) if line.endswith(after))
    text = "\n".join(lines[start + 1 :]).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


def paste(command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a line as it was printed, with flags behind it."""
    return run(["sh", "-c", " ".join([command, *map(shlex.quote, more)])])


def test_the_end_names_commands_that_evaluate_predict_export_and_train_on(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    said = run(python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", folder, *SMALL)).stdout
    lines = said.splitlines()
    rows = dict(line.split("  ", 1) for line in lines[lines.index("next") - 9 : lines.index("next")] if "  " in line)
    assert {"best step", "validation", "test", "training", "memory", "run folder"} <= rows.keys()
    assert "interval" in rows["test"]
    assert "clips/s" in rows["training"]
    assert "GiB" in rows["memory"]
    evaluate, predict, export, longer = commands(lines, "next")
    result = json.loads((folder / "result.json").read_text())["test"]
    assert json.loads(paste(evaluate).stdout.splitlines()[-1])["correct"] == result["correct"]
    recording = tmp_path / "recording.wav"
    recording.write_bytes(wav_file(tone(0, n_samples=16_000)))
    assert "recording" in paste(predict.replace("recording.wav", shlex.quote(str(recording)))).stdout
    assert paste(export).stdout.startswith(f"{folder / 'model.pt'}: ")
    assert "--train.epochs 6" in longer
    assert "starts at      step 6 of 12" in paste(longer).stdout


def test_ctrl_c_under_the_launcher_saves_and_names_the_command_that_goes_on(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*ONE, "--data.shards", str(tiny_dataset), "--run_dir", "run", *SMALL, *LONG]
    with Terminal(command, 100, environment=environment()) as terminal:
        terminal.until_shown("gradient norm")
        terminal.press("\x03")
        assert terminal.ended() == 0
        lines = terminal.lines()
    state = json.loads(Path("run/state.json").read_text())
    assert state["status"] == "stopped"
    step = state["step"]
    (again,) = commands(lines, f"stopped by SIGINT: step {step:,} of 200,000 is saved in run; to go on:")
    assert lines[-1].startswith("  "), "the command is the last thing on the screen"
    assert not [line for line in lines if "━" in line or "Traceback" in line or "stopping" in line]
    assert f"step {step} of {step + 2}" in paste(again, "--train.steps", str(step + 2)).stdout


@pytest.mark.dist
def test_ctrl_c_on_two_processes_says_again_how_to_go_on_after_the_launcher(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = two_ranks("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", folder, *SMALL, *LONG)
    shell = ["sh", "-c", 'trap : INT; "$@"; read line', "sh", *command]  # a terminal closes with its first program
    with Terminal(shell, 100, environment=environment()) as terminal:
        terminal.until_shown("gradient norm")
        terminal.press("\x03")
        lines = terminal.until(lambda shown: shown.count("to go on:") == 2 and shown.endswith("100000"), "the command")
        assert terminal.shows_cursor
        terminal.press("\n")
        terminal.ended()
    assert "SignalException" in "\n".join(lines), "else nothing has to be said again"
    assert json.loads((folder / "state.json").read_text())["status"] == "stopped"
    assert "--num_processes 2" in "".join(lines[-6:])


def test_a_dry_run_shows_what_a_run_would_take_and_writes_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = run(
        python("launch/train.py", "--data.shards", tiny_dataset, "--run_dir", folder, *SMALL, "--dry_run")
    ).stdout
    rows = dict(line.split("  ", 1) for line in said.splitlines() if "  " in line.strip())
    shapes = {name: rows[name].strip() for name in ("waveform", "features", "logits")}
    assert shapes == {"waveform": "12 x 16000", "features": "12 x 1 x 40 x 101", "logits": "12 x 3"}
    assert "parameters" in rows["model"]
    assert "GiB" in rows["peak memory"]
    assert "of which validation" in rows["the run would take"]
    assert not folder.exists()
