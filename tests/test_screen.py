"""What a person sees during a training, on a real (pseudo-)terminal, and what Ctrl-C does there."""

import re
import sys

import pytest
from terminal import Terminal

TRAINING = """
import hashlib, os, sys
from rich.console import Console
from kws_dist.display import Display, Reading
from kws_dist.training.stop import StopRequest

def cue():
    os.read(int(os.environ["CUE"]), 1)

reading = Reading(loss=1234.5678, accuracy=0.9021, learning_rate=1.23e-05, gradient_norm=12.345, skipped_steps=3,
                  clips_per_s=1234567, data_wait_share=1.0, memory_bytes=int(119.9 * 2**30),
                  memory_limit_bytes=int(139.8 * 2**30))
row = dict(train_loss=1234.5678, val_loss=0.25, val_accuracy=0.75, raw_accuracy=0.7, test_accuracy=0.72,
           learning_rate=1.23e-05, time_s=3599)
with Display(Console(), total_steps=1400, steps_per_epoch=480, start_step=0) as display:
    display.startup({"run": "runs/[a]", "model": "bcresnet"}, {"--train.epochs": "2"}, words=["yes", "no"] * 20)
    with StopRequest(display) as stop:
        display.busy("trying out validation")
        cue()
        display.update(480, reading)
        cue()
        display.note("a note [with brackets] " + "and many words " * 8)
        print("a stray print")
        display.busy("validating")
        cue()
        display.validated(480, **row, is_best=True)
        display.validated(600, **row, is_best=False)
        cue()
        display.update(610, reading)
        if "stuck" in sys.argv:
            hashlib.pbkdf2_hmac("sha256", b"a step that takes", b"an hour", 2 * 10**9)
        if "exception" in sys.argv:
            cue()
            raise RuntimeError("boom")
        cue()
    display.finish({"test": "accuracy 0.75"}, ["python tools/predict.py --run_dir 'runs/my run' " + 9 * "--top 3 "])
"""

PICTURE_80 = [
    "",
    f"epoch 1/3  {44 * '━'}  480/480",
    f"total 34 % {15 * '━'}╺{28 * '━'} 480/1400 eta ?",
    "",
    "loss               accuracy           learning rate      gradient norm",
    "1234.5678          0.902              1.23e-05           12.3",
    "",
    "clips/s            data wait          peak memory        skipped steps",
    "1,234,567          100.0 %            119.9 of 139.8 GiB 3",
    "",
    "Ctrl-C finishes the step and saves",
]
PICTURE_160 = [
    "",
    f"epoch 1/3  {124 * '━'}  480/480",
    f"total 34 % {42 * '━'}╸{81 * '━'} 480/1400 eta ?",
    "",
    "loss               accuracy           learning rate      gradient norm      clips/s            data wait"
    "          peak memory        skipped steps",
    "1234.5678          0.902              1.23e-05           12.3               1,234,567          100.0 %"
    "            119.9 of 139.8 GiB 3",
    "",
    "Ctrl-C finishes the step and saves",
]
STOPPING = "stopping after this step and saving; Ctrl-C again leaves at once"


def training(columns: int, *how: str) -> Terminal:
    return Terminal([sys.executable, "-c", TRAINING, *how], columns)


@pytest.mark.parametrize(("columns", "picture"), [(80, PICTURE_80), (160, PICTURE_160)])
def test_bars_and_figures_are_on_the_screen_and_no_line_of_them_wraps(columns: int, picture: list[str]) -> None:
    with training(columns) as terminal:
        terminal.until_shown("trying out validation (")
        terminal.go_on()
        lines = terminal.until(lambda shown: shown.endswith("\n".join(picture)), "\n".join(picture))
        assert "trying out" not in "\n".join(lines)


@pytest.mark.parametrize("columns", [80, 160])
def test_numbers_give_way_to_what_goes_on_instead_of_steps(columns: int) -> None:
    with training(columns) as terminal:
        terminal.go_on()
        terminal.until_shown("gradient norm")
        terminal.go_on()
        lines = terminal.until_shown("validating (0 s)")
        assert not re.search("gradient norm|1234.5678|clips/s", "\n".join(lines)), "stale numbers"
        terminal.until_shown("validating (1 s)")
        assert sum(line.startswith("total") for line in terminal.lines()) == 1, "bars left behind"
        terminal.go_on()
        lines = terminal.until_shown("training (")
        assert not re.search("gradient norm|validating", "\n".join(lines)), "stale numbers"


def test_what_is_said_meanwhile_stays_above_the_bars_and_the_end_takes_them_away() -> None:
    with training(80) as terminal:
        for _ in range(5):
            terminal.go_on()
        assert terminal.ended() == 0
        assert terminal.shows_cursor
        assert terminal.lines()[-13:] == [
            "",
            "a note [with brackets] and many words and many words and many words and many",
            "words and many words and many words and many words and many words",
            "a stray print",
            " epoch  train loss  val loss  val acc  raw acc  test acc  best         time",
            "     1   1234.5678    0.2500   0.7500   0.7000    0.7200  *     59 min 59 s",
            "  1.25   1234.5678    0.2500   0.7500   0.7000    0.7200        59 min 59 s",
            "",
            "test  accuracy 0.75",
            "",
            "next",
            "  python tools/predict.py --run_dir 'runs/my run' --top 3 --top 3 --top 3 \\",
            "      --top 3 --top 3 --top 3 --top 3 --top 3 --top 3",
        ]


def test_an_error_gives_the_terminal_back_before_it_is_shown() -> None:
    with training(80, "exception") as terminal:
        for _ in range(5):
            terminal.go_on()
        assert terminal.ended() == 1
        assert terminal.shows_cursor
        assert terminal.lines()[-1] == "RuntimeError: boom"
        assert not [line for line in terminal.lines() if "━" in line or "Ctrl-C" in line]


@pytest.mark.parametrize("columns", [80, 160])
def test_ctrl_c_is_answered_at_once_and_leaves_no_bars_behind(columns: int) -> None:
    with training(columns) as terminal:
        terminal.go_on()
        terminal.until_shown("gradient norm")
        terminal.press("\x03")
        lines = terminal.until_shown(STOPPING)
        assert sum(line.startswith("total") for line in lines) == 1, "bars left behind"
        for _ in range(4):
            terminal.go_on()
        assert terminal.ended() == 0
        assert not [line for line in terminal.lines() if "━" in line or "stopping" in line]


def test_a_second_ctrl_c_leaves_at_once_even_while_a_step_computes() -> None:
    with training(80, "stuck") as terminal:
        for _ in range(4):
            terminal.go_on()
        terminal.until_shown("610/1400")
        terminal.press("\x03")
        terminal.until_shown(STOPPING)
        terminal.press("\x03")
        assert terminal.ended() == 130
        assert terminal.shows_cursor
        assert terminal.lines()[-2:] == [
            "warning: left at once; the last checkpoint is kept, and the same command goes on",
            "from it",
        ]
        assert not [line for line in terminal.lines() if "━" in line]
