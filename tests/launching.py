"""Start the entry points as a user does, for tests."""

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fork_server import ForkServer

ROOT = Path(__file__).parents[1]

SMALL = (
    *("--model.name", "gru", "--model.params", "hidden", "8", "layers", "1", "dropout", "0.1"),
    *("--train.epochs", "3", "--train.global_batch", "12", "--train.learning_rate", "0.05"),
    *("--train.warmup_epochs", "1", "--train.ema_decay", "0.9", "--train.log_every_steps", "1"),
    *("--train.precision", "fp32"),
)
"""Settings of a training that takes a second and still uses dropout, averaging and several epochs."""


def python(script: str, *arguments: str | Path) -> list[str]:
    """Return the command line of an entry point in one process."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def two_ranks(script: str | Path, *arguments: str | Path) -> list[str]:
    """Return the command line of an entry point in two gloo processes on the CPU."""
    options = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options]
    return [*launcher, str(ROOT / script), *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return the environment of a machine without GPUs, with the threads that `accelerate launch` would set."""
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def run(command: list[str], *, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit code; one of ours is forked from a process that has torch."""
    if Path(command[1]).parent in (ROOT / "launch", ROOT / "tools"):
        done = _forked(command)
    else:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@cache
def _fork_server() -> ForkServer:
    return ForkServer(environment())


def _forked(command: list[str]) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "error")]
        for path in outputs:
            path.touch()
        server = _fork_server()
        try:
            code = server.wait(server.start(command[1:], environment(), *outputs), timeout_s=300)
        except BaseException:
            _fork_server.cache_clear()  # its next answer would be that to this command
            raise
        return subprocess.CompletedProcess(command, code, *(path.read_text() for path in outputs))


def freeze(pid: int) -> None:
    """Stop a child, and wait until none of its threads writes any more: what it was in the middle of it still does."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def last_json(text: str) -> dict[str, Any]:
    """Return the JSON object in the last line."""
    return json.loads(text.strip().splitlines()[-1])
