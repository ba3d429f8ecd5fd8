"""`metrics.jsonl`: strict, flushed, whole after any crash, and with every step once."""

import json
from pathlib import Path

import numpy as np
import pytest
from damage import fill

from kws_dist.metrics_file import MetricsFile, read_metrics


def record(step: int, **more: object) -> dict[str, object]:
    return {"step": step, "clips_seen": step * 64, "time_s": step * 0.5, **more}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_every_line_is_strict_json_whatever_is_logged(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log(record(1, loss=float("nan"), rate=float("inf"), accuracy=np.float32(0.5), right=np.int64(3)))
    metrics.log(record(2, low=np.float32("-inf"), words=("yes", "no"), folder=tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=refuse) for line in lines)
    assert first == record(1, loss=None, rate=None, accuracy=0.5, right=3)
    assert second == record(2, low=None, words=["yes", "no"], folder=str(tmp_path))


def test_a_record_is_in_the_file_when_log_returns(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log(record(1))
    assert read_metrics(tmp_path / "metrics.jsonl") == [record(1)]


def test_a_record_says_when_it_is_from(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="clips_seen"):
        MetricsFile(tmp_path / "metrics.jsonl").log({"step": 1, "time_s": 0.0})


def test_nothing_is_written_before_the_first_record(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").rewind(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("half", ["", '{"step": 7, "clips_s', '{"step": 7}\x00\x00', '{"step": 7', "\n", "7"])
def test_a_resumed_run_records_every_step_once(tmp_path: Path, half: str) -> None:
    path = tmp_path / "metrics.jsonl"
    killed = MetricsFile(path)
    for step in range(1, 7):
        killed.log(record(step))
    with path.open("a") as file:
        file.write(half)  # the kill came in the middle of a line

    resumed = MetricsFile(path)
    resumed.rewind(4)
    for step in range(5, 9):
        resumed.log(record(step))
    resumed.finish(0, {})
    assert [line["step"] for line in map(json.loads, path.read_text().splitlines())] == list(range(1, 9))


def test_truncation_works_on_an_open_file(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.log(record(step))
    metrics.rewind(1)
    metrics.log(record(2))
    assert read_metrics(tmp_path / "metrics.jsonl") == [record(1), record(2)]


def test_a_half_written_line_does_not_swallow_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record(1)) + '\n{"step": 2, "cl')
    MetricsFile(path).log(record(2))
    assert read_metrics(path) == [record(1), record(2)]


def test_lines_wait_for_room_on_a_full_disk_and_none_is_lost_or_written_twice(small_disk: Path) -> None:
    said: list[str] = []
    metrics = MetricsFile(small_disk / "metrics.jsonl", said.append)
    metrics.log(record(1))
    hog = fill(small_disk)
    for step in range(2, 200):  # the first of them still fit into the last block
        metrics.log(record(step, words="yes no up " * 20))
    (once,) = said
    assert once.startswith(f"{small_disk / 'metrics.jsonl'} cannot be written (No space left on device)")
    hog.unlink()
    metrics.log(record(200))
    metrics.finish(0, {})
    assert [line["step"] for line in read_metrics(small_disk / "metrics.jsonl")] == list(range(1, 201))
