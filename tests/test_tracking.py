"""Where numbers go. W&B is tested with its real client, and its absence in every way that it can be absent."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure
from wandb_file import forget_who_is_logged_in, only_run, read_run, runs

from kws_dist.config import TrackingConfig
from kws_dist.errors import UsageError
from kws_dist.tracking import (
    HeardClip,
    MetricsFile,
    Record,
    TensorBoard,
    Tracker,
    Wandb,
    check_tracking,
    read_metrics,
    sinks_of,
    wandb_id,
)

SOME_KEY = "0123456789" * 4
NOBODY_LISTENS = "http://127.0.0.1:9"


def record(step: int, **more: Any) -> Record:
    return {"step": step, "clips_seen": step * 64, "time_s": step * 0.5, "train/loss": 1 / step, **more}


OFFLINE, ONLINE = TrackingConfig(wandb="offline"), TrackingConfig(wandb="online")


@pytest.fixture(autouse=True)
def _stranger_to_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_who_is_logged_in(monkeypatch, tmp_path)


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Recorder:
    """A sink that remembers what it was called with."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.seen.append((name, *given))


def test_every_sink_gets_everything_and_is_finished_once() -> None:
    sinks = [Recorder(), Recorder()]
    matrix = np.eye(2, dtype=int)
    clip = HeardClip(key="a", word="yes", heard="no", probability=0.9, loss=3.0, path=Path("a.wav"))
    with Tracker(sinks) as tracker:
        tracker.log(record(1))
        tracker.log_image("curves", Path("curves.png"))
        tracker.log_confusion("confusion", ["yes", "no"], matrix)
        tracker.log_clips("worst", [clip])
        tracker.log_checkpoint(Path("step-1"), ["latest"])
        tracker.rewind(0)
        tracker.finish(0, {"val/accuracy": 0.9})
    for sink in sinks:
        assert sink.seen == [
            ("log", record(1)),
            ("log_image", "curves", Path("curves.png")),
            ("log_confusion", "confusion", ["yes", "no"], matrix),
            ("log_clips", "worst", [clip]),
            ("log_checkpoint", Path("step-1"), ["latest"]),
            ("rewind", 0),
            ("finish", 0, {"val/accuracy": 0.9}),
        ]


def test_a_sink_that_cannot_write_is_given_up_and_the_others_go_on(small_disk: Path) -> None:
    class OnFullDisk(Recorder):
        def log(self, record: dict[str, Any]) -> None:
            with (small_disk / "events").open("ab", buffering=0) as file:
                while True:
                    file.write(str(record).encode() * 1000)

    said: list[str] = []
    other = Recorder()
    with Tracker([OnFullDisk(), other], said.append) as tracker:
        tracker.log(record(1))
        tracker.log(record(2))
    assert said == ["OnFullDisk is given up, because its files cannot be written ([Errno 28] No space left on device)"]
    assert [name for name, *_ in other.seen] == ["log", "log", "finish"]


def test_an_exception_finishes_the_sinks_as_failed() -> None:
    sink = Recorder()
    with pytest.raises(KeyboardInterrupt), Tracker([sink]):
        raise KeyboardInterrupt
    assert sink.seen == [("finish", 1, {})]


def test_disabled_leaves_no_trace(tmp_path: Path) -> None:
    wandb = Wandb(tmp_path, TrackingConfig(), config={}, warn=pytest.fail)
    wandb.log(record(1))
    wandb.finish(0, {})
    assert list(tmp_path.iterdir()) == []


def test_offline_holds_scalars_config_and_summary_under_the_id_of_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wandb = Wandb(tmp_path / "a run", OFFLINE, config={"train": {"epochs": 3}}, warn=pytest.fail)
    for step in (1, 2, 3):
        wandb.log(record(step))
    wandb.log({"step": 3, "clips_seen": 192, "time_s": 2.0, "val/accuracy": 0.75, "val/loss": float("nan")})
    wandb.finish(0, {"test/accuracy": 0.7})

    run = only_run(tmp_path / "a run")
    assert run.id == wandb_id(tmp_path / "a run")
    assert (run.name, run.config["train"]) == ("a run", {"epochs": 3})
    assert [(row["_step"], row["clips_seen"], row["train/loss"]) for row in run.history] == [
        (1, 64, 1.0),
        (2, 128, 0.5),
        (3, 192, pytest.approx(1 / 3)),
    ]
    assert run.history[2]["val/accuracy"] == 0.75
    assert run.x_axis == {"*": "clips_seen"}
    assert run.summary["test/accuracy"] == 0.7
    assert run.exit_code == 0
    assert capfd.readouterr() == ("", ""), "the terminal is not the client's to write on"


def test_a_resumed_run_goes_on_under_the_same_id(tmp_path: Path) -> None:
    for first in (1, 3):
        wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail)
        wandb.log(record(first))
        wandb.log(record(first + 1))
        wandb.finish(0, {})
    before, after = sorted(runs(tmp_path), key=lambda run: run.history[0]["_step"])
    assert before.id == after.id == wandb_id(tmp_path)
    assert [row["_step"] for run in (before, after) for row in run.history] == [1, 2, 3, 4]


def test_pictures_are_kept(tmp_path: Path) -> None:
    Figure(figsize=(1, 1)).savefig(tmp_path / "confusion.png")
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=pytest.fail)
    wandb.log(record(1))
    wandb.log_image("confusion", tmp_path / "confusion.png")
    wandb.finish(0, {})
    (copy,) = tmp_path.glob("wandb/offline-run-*/files/media/images/*.png")
    assert copy.read_bytes() == (tmp_path / "confusion.png").read_bytes()


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("", "", "wandb login"),
        (NOBODY_LISTENS, SOME_KEY, "cannot be reached"),
        ("hanging", SOME_KEY, "cannot be reached"),
    ],
    ids=["not logged in", "unreachable", "hanging"],
)
def test_without_wandb_training_goes_on_at_once_and_the_run_is_recorded_offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    hanging_server: str,
    url: str,
    key: str,
    says: str,
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB_BASE_URL", hanging_server if url == "hanging" else url)
    warnings: list[str] = []
    began_s = time.monotonic()
    wandb = Wandb(tmp_path, ONLINE, config={}, warn=warnings.append, init_timeout_s=4.0)
    for step in range(1, 2001):  # more than the pipe holds
        wandb.log(record(step))
    assert time.monotonic() - began_s < 3.0, "training has waited for W&B"
    wandb.finish(0, {})
    assert time.monotonic() - began_s < 25
    (warning,) = warnings
    assert says in warning
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in warning
    (offline,) = tmp_path.glob("wandb/offline-run-*")
    assert [row["_step"] for row in read_run(offline).history] == list(range(1, 2001))
    assert capfd.readouterr() == ("", "")


def test_finishing_takes_no_longer_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging_server: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SOME_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", hanging_server)
    warnings: list[str] = []
    wandb = Wandb(tmp_path, ONLINE, config={}, warn=warnings.append, finish_timeout_s=2.0)
    wandb.log(record(1))
    began_s = time.monotonic()
    wandb.finish(0, {})
    assert time.monotonic() - began_s < 8
    (warning,) = warnings
    assert "did not finish within 2 s" in warning
    wandb.log(record(2))  # off, and harmless


def test_a_client_that_dies_costs_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=warnings.append)
    client = the_client()
    client.kill()
    os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    with Tracker([wandb, metrics]) as tracker:
        for step in (1, 2, 3):
            tracker.log(record(step))
    (warning,) = warnings
    assert "ended early" in warning
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3


def test_a_client_that_stops_taking_records_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wandb, "BACKLOG_LIMIT_BYTES", 100_000)
    warnings: list[str] = []
    wandb = Wandb(tmp_path, OFFLINE, config={}, warn=warnings.append)
    the_client().suspend()
    for step in range(1, 5001):
        wandb.log(record(step))
    wandb.finish(0, {})
    assert warnings == ["W&B is off: its client has stopped taking records."]


def test_a_killed_trainer_closes_its_run_as_failed(tmp_path: Path) -> None:
    trainer = """
import os, pathlib, psutil, signal, sys
from kws_dist.config import TrackingConfig
from kws_dist.tracking import Wandb
wandb = Wandb(pathlib.Path(sys.argv[1]), TrackingConfig(wandb="offline"), config={}, warn=print)
wandb.log({"step": 1, "clips_seen": 64, "time_s": 0.5})
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", trainer, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    client = int(killed.stdout)
    if psutil.pid_exists(client):
        psutil.Process(client).wait(timeout=30)
    run = only_run(tmp_path)
    assert run.exit_code == 1
    assert run.history[0]["clips_seen"] == 64


def test_the_settings_say_which_sinks_there_are_and_metrics_go_on_where_the_run_does(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.log(record(step))
    metrics.finish(0, {})
    tracking = TrackingConfig(wandb="offline", tensorboard=True)
    for settings, kinds in ((TrackingConfig(), [MetricsFile]), (tracking, [MetricsFile, TensorBoard, Wandb])):
        with Tracker(sinks := sinks_of(settings, tmp_path, {}, pytest.fail, start_step=2)) as tracker:
            assert [type(sink) for sink in sinks] == kinds
            tracker.log(record(3))
        assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_what_comes_again_after_going_back_is_recorded_once_and_goes_on_in_wandb(tmp_path: Path) -> None:
    with Tracker(sinks_of(OFFLINE, tmp_path, {}, pytest.fail, start_step=0)) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log(record(step))
        tracker.rewind(2)
        for step in (3, 4):
            tracker.log(record(step))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    history = only_run(tmp_path).history
    assert [row["step"] for row in history] == [1, 2, 3, 4, 3, 4]
    assert [row["_step"] for row in history] == [1, 2, 3, 4, 5, 6], "W&B drops steps that do not rise"


@pytest.mark.parametrize(
    ("tracking", "says"),
    [
        (TrackingConfig(tags=("",)), "--tracking.tags ''"),
        (TrackingConfig(tags=("a" * 65,)), "1 to 64 letters"),
        (TrackingConfig(project="a/b"), "--tracking.project 'a/b'"),
        (TrackingConfig(project=""), "--tracking.project ''"),
        (TrackingConfig(worst_clips=-1), "--tracking.worst_clips -1"),
    ],
)
def test_settings_that_no_sink_could_follow_are_refused(tracking: TrackingConfig, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        check_tracking(tracking)


def test_settings_that_are_as_they_should_be_pass() -> None:
    check_tracking(TrackingConfig(wandb="online", tags=("a b", "ü" * 64), tensorboard=True, worst_clips=0))


def the_client() -> psutil.Process:
    (client,) = [child for child in psutil.Process().children() if "kws_dist.wandb_mirror" in child.cmdline()]
    return client
