"""What a person sees, on a real (pseudo-)terminal of a given size and in a log file."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios

import pytest
from rich.console import Console

from kws_dist.display import Display, duration, silent

TRAINING = """
import sys, time
from rich.console import Console
from kws_dist.display import Display
ending = sys.argv[1]
with Display(Console(), total_steps=96, steps_per_epoch=48, start_step=0) as display:
    display.startup({"run": "runs/[a]", "model": "bcresnet"}, {"--train.epochs": "2"}, words=["yes", "no"] * 20)
    for step in range(1, 97):
        display.update(step, epoch=(step - 1) // 48 + 1, loss=1234.5678, accuracy=0.5, learning_rate=1.23e-05,
                       clips_per_s=1234567, data_wait_share=1.0, heartbeat=True)
        if step == 24:
            display.note("a note [with brackets] " + "and many words " * 8)
            print("a stray print")
        if step % 48 == 0:
            display.epoch_row(step // 48, train_loss=1234.5678, val_loss=0.25, val_accuracy=0.75, is_best=step == 48,
                              learning_rate=1.23e-05, time_s=3 * 86400)
        if step == 60 and ending == "exception":
            raise RuntimeError("boom")
        if step == 60 and ending == "ctrl-c":
            print("ready", flush=True)
            time.sleep(60)
    display.finish({"test accuracy": "75.00 %"}, ["python tools/predict.py --run runs/x clip.wav"])
"""


def watch(columns: int, ending: str = "finish") -> str:
    """Run the training on a terminal of 30 rows and return every character that it wrote there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", PYTHONIOENCODING="utf-8")
        os.environ.pop("NO_COLOR", None)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-c", TRAINING, ending])
    written = b""
    try:
        while chunk := os.read(terminal, 65536):
            if b"ready" in chunk:
                os.write(terminal, b"\x03")
            written += chunk
    except OSError:  # how Linux says that the other side has closed the terminal
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return written.decode()


def screen(written: str) -> list[str]:
    """Return the lines that a terminal ends up showing: rich moves up, erases lines, and writes over them."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token[-1] == "A" and token[0] == "\x1b":
            row -= int(token[2:-1])
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return lines


def frames(written: str) -> list[str]:
    """Return all lines that were ever on the screen, those of the bars included."""
    return [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", written)]


@pytest.mark.parametrize("columns", [80, 160])
def test_nothing_is_wider_than_the_terminal(columns: int) -> None:
    written = watch(columns)
    assert max(map(len, frames(written))) <= columns


@pytest.mark.parametrize("columns", [80, 160])
def test_the_bars_show_every_number_and_then_go_away(columns: int) -> None:
    written = watch(columns)
    seen = frames(written)
    assert any(re.match(r"epoch 1/2 +[━╸╺]+ +24/48", line) for line in seen)
    assert any(re.match(r"total +[━╸╺]+ +24/96 +eta \d+ s", line) for line in seen)
    assert "loss 1234.5678  acc 0.500  lr 1.23e-05  1234567 clips/s  data wait 100.0 %" in map(str.rstrip, seen)
    last = [line.rstrip() for line in screen(written)]
    assert not any("━" in line or "data wait" in line for line in last)
    assert last[-5:] == ["test accuracy  75.00 %", "", "next", "  python tools/predict.py --run runs/x clip.wav", ""]


def test_what_is_said_meanwhile_stays_above_the_bars() -> None:
    last = [line.rstrip() for line in screen(watch(80))]
    assert [line for line in last if re.match(r"a note|a stray|epoch|    \d", line)] == [
        "a note [with brackets] and many words and many words and many words and many",
        "a stray print",
        "epoch  train loss  val loss  val acc  best        lr         time",
        "    1   1234.5678    0.2500   0.7500  *     1.23e-05      3 d 0 h",
        "    2   1234.5678    0.2500   0.7500        1.23e-05      3 d 0 h",
    ]
    assert "run    runs/[a]" in last


@pytest.mark.parametrize("ending", ["finish", "exception", "ctrl-c"])
def test_the_terminal_is_given_back(ending: str) -> None:
    written = watch(80, ending)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is still hidden"
    last = screen(written)
    assert not any("━" in line for line in last)
    expected = {"finish": "next", "exception": "RuntimeError: boom", "ctrl-c": "KeyboardInterrupt"}[ending]
    assert expected in [line.strip() for line in last]


def plain_display(**more: float) -> tuple[Display, io.StringIO]:
    log = io.StringIO()
    return Display(Console(file=log), total_steps=1440, steps_per_epoch=48, start_step=0, **more), log


def update(display: Display, step: int, **more: object) -> None:
    numbers = {"loss": 0.31211, "accuracy": 0.9021, "learning_rate": 0.0812, "clips_per_s": 412.2}
    display.update(step, epoch=(step - 1) // 48 + 1, data_wait_share=0.004, **numbers, **more)


def test_a_log_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter([100.0, 100.5]).__next__)
    display, log = plain_display(heartbeat_s=0.0)
    update(display, 479)
    update(display, 480)
    assert log.getvalue().splitlines()[1] == (
        "step 480/1440 (33 %)  epoch 10/30  loss 0.3121  acc 0.902  lr 0.0812  412 clips/s  data wait 0.4 %"
        "  eta 8 min 0 s"
    )


def test_a_heartbeat_comes_when_it_is_due_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter(range(100, 200)).__next__)  # one second for each update
    display, log = plain_display(heartbeat_s=30.0)
    for step in range(1, 62):
        update(display, step, heartbeat=step == 17)
    assert [int(number) for number in re.findall(r"step (\d+)", log.getvalue())] == [1, 17, 47]


def test_the_time_left_is_not_fooled_by_one_slow_update(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = [0.0, 1.0, 2.0, 602.0, 603.0, 604.0]  # one second for ten steps, and a validation of ten minutes
    monkeypatch.setattr("time.monotonic", iter(times_s).__next__)
    display, log = plain_display(heartbeat_s=0.0)
    for step in range(10, 70, 10):
        update(display, step)
    assert log.getvalue().splitlines()[-1].endswith("eta 2 min 18 s")  # 1380 steps at 0.1 s


def test_a_log_file_holds_the_tables_without_colours_or_broken_lines() -> None:
    display, log = plain_display()
    long_path = "/data/" + 10 * "speech_commands/"
    with display:
        display.startup({"run": "runs/[x]", "global batch": "64"}, {"--data.shards": long_path}, words=["yes", "no"])
        for epoch, is_best in ((1, True), (2, False)):
            display.epoch_row(
                epoch, train_loss=0.5, val_loss=None, val_accuracy=None, is_best=is_best, learning_rate=0.1, time_s=75
            )
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
        "epoch  train loss  val loss  val acc  best        lr         time",
        "    1      0.5000         -        -  *          0.1   1 min 15 s",
        "    2      0.5000         -        -             0.1   1 min 15 s",
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
        update(display, 1)
    assert re.fullmatch(r"step 1/9 .*\n", log.getvalue())


def test_the_other_ranks_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with silent() as display:
        display.startup({"run": "x"}, {"--seed": "1"}, words=["yes"])
        update(display, 1, heartbeat=True)
        display.epoch_row(
            1, train_loss=1.0, val_loss=1.0, val_accuracy=0.5, is_best=True, learning_rate=0.1, time_s=1.0
        )
        display.note("x")
        display.warn("x")
        display.finish({"run": "x"}, ["x"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_durations_are_read_at_a_glance(time_s: float, text: str) -> None:
    assert duration(time_s) == text
