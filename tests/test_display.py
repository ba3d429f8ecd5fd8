"""What a log file gets, and how numbers are put; `test_screen.py` is about the terminal."""

import io
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from kws_dist.display import Display, Reading, Terminal, duration, silent
from kws_dist.display_picture import Place
from kws_dist.display_table import EpochTable, Row

READING = Reading(
    loss=0.31211,
    accuracy=0.9021,
    learning_rate=0.0812,
    gradient_norm=1.2345,
    skipped_steps=0,
    clips_per_s=412.2,
    data_wait_share=0.004,
    memory_bytes=3 * 2**29,
)
VALIDATION = {"train_loss": 0.5, "val_loss": 0.25, "val_accuracy": 0.75, "learning_rate": 0.1, "time_s": 75}
ROW = Row(epochs=12.25, **VALIDATION, raw_accuracy=0.7, test_accuracy=0.72, is_best=True)


def plain_display(**more: float) -> tuple[Display, io.StringIO]:
    log = io.StringIO()
    return Display(Console(file=log), total_steps=1440, steps_per_epoch=48, start_step=0, **more), log


def test_a_log_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter([100.0, 100.5]).__next__)
    display, log = plain_display(heartbeat_s=0.0)
    display.update(479, READING)
    display.update(480, READING)
    assert log.getvalue().splitlines()[1] == (
        "step 480/1440 (33 %)  epoch 10/30  loss 0.3121  accuracy 0.902  learning rate 0.0812  gradient norm 1.23"
        "  clips/s 412  data wait 0.4 %  peak memory 1.5 GiB  skipped steps 0  eta 8 min 0 s"
    )


def test_a_heartbeat_comes_when_it_is_due_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter(range(100, 200)).__next__)  # one second for each update
    display, log = plain_display(heartbeat_s=30.0)
    for step in range(1, 62):
        display.update(step, READING, heartbeat=step == 17)
    assert [int(number) for number in re.findall(r"step (\d+)", log.getvalue())] == [1, 17, 47]


def test_the_time_left_is_not_fooled_by_one_slow_update(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = [0.0, 1.0, 2.0, 602.0, 603.0, 604.0]  # one second for ten steps, and a validation of ten minutes
    monkeypatch.setattr("time.monotonic", iter(times_s).__next__)
    display, log = plain_display(heartbeat_s=0.0)
    for step in range(10, 70, 10):
        display.update(step, READING)
    assert log.getvalue().splitlines()[-1].endswith("eta 2 min 18 s")  # 1380 steps at 0.1 s


def test_a_log_file_holds_the_tables_without_colours_or_broken_lines() -> None:
    display, log = plain_display()
    long_path = "/data/" + 10 * "speech_commands/"
    with display:
        display.startup({"run": "runs/[x]", "global batch": "64"}, {"--data.shards": long_path}, words=["yes", "no"])
        display.validated(48, **VALIDATION, is_best=True)
        display.validated(60, **VALIDATION, is_best=False)
        display.stopping()
        display.warn("mind the gap")
        display.finish({"run folder": "runs/[x]"}, [f"python tools/predict.py {long_path}"])
    assert log.getvalue().splitlines() == [
        "run           runs/[x]",
        "global batch  64",
        "words         2: yes no",
        "",
        "changed from the defaults",
        f"  --data.shards  {long_path}",
        "",
        " epoch  train loss  val loss  val acc  best        lr         time",
        "     1      0.5000    0.2500   0.7500  *          0.1   1 min 15 s",
        "  1.25      0.5000    0.2500   0.7500             0.1   1 min 15 s",
        "stopping after this step and saving",
        "warning: mind the gap",
        "",
        "run folder  runs/[x]",
        "",
        "next",
        f"  python tools/predict.py {long_path}",
    ]


def test_a_log_file_with_forced_colours_still_gets_lines_not_bars() -> None:
    log = io.StringIO()
    display = Display(Console(file=log, force_terminal=True), total_steps=9, steps_per_epoch=3, start_step=0)
    with display:
        display.update(1, READING)
    assert re.fullmatch(r"step 1/9 .*\n", log.getvalue())


def test_the_other_ranks_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with silent() as display:
        display.startup({"run": "x"}, {"--seed": "1"}, words=["yes"])
        display.update(1, READING, heartbeat=True)
        display.busy("validating")
        display.validated(1, **VALIDATION, is_best=True)
        display.stopping()
        display.note("x")
        display.warn("x")
        display.finish({"run": "x"}, ["x"])
    assert capfd.readouterr() == ("", "")


def test_the_time_left_counts_the_validations_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter([0.0, 1.0, 2.0, 62.0, 62.0, 63.0]).__next__)
    display, log = plain_display(heartbeat_s=0.0)
    for step in (10, 20, 30):  # a second for ten steps
        display.update(step, READING)
    display.validated(30, **VALIDATION, is_best=True)  # a minute for thirty
    display.update(40, READING)
    assert log.getvalue().splitlines()[-1].endswith("eta 49 min 0 s")  # 1400 steps at 0.1 s and 2 s


@pytest.mark.parametrize(
    ("step", "epoch", "in_epoch", "share"),
    [(0, 1, (0, 10), "0 %"), (10, 1, (10, 10), "40 %"), (11, 2, (1, 10), "44 %"), (24, 3, (4, 5), "96 %")],
)
def test_the_last_epoch_of_a_run_may_be_shorter(step: int, epoch: int, in_epoch: tuple[int, int], share: str) -> None:
    place = Place(step, total_steps=25, steps_per_epoch=10)
    assert (place.epoch, place.epochs, place.in_epoch, place.share) == (epoch, 3, in_epoch, share)


@pytest.mark.parametrize(
    ("epochs", "shown"), [(3.0, "3"), (2.5, "2.5"), (0.25, "0.25"), (1 / 3, "0.33"), (100.3, "100.3")]
)
def test_epochs_have_a_fraction_only_inside_one(epochs: float, shown: str) -> None:
    row = Row(epochs=epochs, **VALIDATION, raw_accuracy=None, test_accuracy=None, is_best=False)
    assert EpochTable(None).lines(row)[-1].split()[0] == shown


@pytest.mark.parametrize(
    ("columns", "given_up"), [(None, ""), (85, ""), (84, "lr"), (74, "lr|time"), (40, "lr|time|raw")]
)
def test_a_narrow_table_does_without_its_least_needed_columns(columns: int | None, given_up: str) -> None:
    header, line = EpochTable(columns).lines(ROW)
    assert len(header) <= (columns or 85)
    assert len(line) <= (columns or 85)
    assert "val acc" in header
    assert not given_up or not re.search(f"({given_up})( |$)", header)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_durations_are_read_at_a_glance(time_s: float, text: str) -> None:
    assert duration(time_s) == text


def test_a_console_that_cannot_be_written_to_is_no_reason_to_end() -> None:
    file = Path("/dev/full").open("w")  # noqa: SIM115 -- closing it is part of the test
    display = Display(Terminal(file=file), total_steps=1, steps_per_epoch=1, start_step=0)
    display.warn("the disk is full")
    display.stopping()
    with pytest.raises(OSError, match="No space left"):  # what Python still holds of it
        file.close()


def test_a_reader_that_is_gone_is_no_reason_to_end() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = Terminal(file=os.fdopen(writer, "w"))
    Display(console, total_steps=1, steps_per_epoch=1, start_step=0).warn("nobody reads this")
    with suppress(BrokenPipeError):
        console.file.close()
