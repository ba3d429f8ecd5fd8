"""Runs the project's entry points in forks of a process that has imported torch already, for tests.

Importing it takes some three seconds of a core, for a training of one second, several hundred times in the suite. Each
fork has a main module, arguments, variables, a folder and outputs of its own, and ends as a program ends. What a test
sends signals to, or measures from its start, is started as a user starts it: see `launching.py`.

The server reads a line of JSON for each run from its input: the script, its arguments, variables, folder, and files
for what it prints. It answers with the number of the process, and when that has ended, with its wait status.
"""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[1]


class ForkServer:
    """The server, as tests see it; it ends with them."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=dict(variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, command: Sequence[str], variables: Mapping[str, str], out: Path, error: Path) -> int:
        """Start a Python script with its arguments; return the number of its process."""
        request = {"command": command, "variables": dict(variables), "folder": os.getcwd()}  # noqa: PTH109
        self._say({**request, "out": str(out), "error": str(error)})
        return self._answer()

    def wait(self, pid: int, timeout_s: float) -> int:
        """Wait until the script that was started has ended; return its exit code, as `subprocess` has it."""
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(self._answer())

    def _say(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> int:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the server has ended"
        return int(line)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Run one script after the other until nobody asks any more."""
    import torch._dynamo  # noqa: F401 -- which every optimizer imports

    import kws_dist.inference.predictor
    import kws_dist.training.session  # noqa: F401

    for line in requests:
        pid = os.fork()
        if not pid:
            _become(**json.loads(line))
        print(pid, file=answers, flush=True)
        print(os.waitpid(pid, 0)[1], file=answers, flush=True)


def _become(command: Sequence[str], variables: Mapping[str, str], folder: str, out: str, error: str) -> NoReturn:
    """Be the script in this process until its end."""
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, error, os.O_WRONLY)):
        os.dup2(os.open(path, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    script, *_ = sys.argv = list(command)
    sys.path[0] = str(Path(script).parent)
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 -- as an interpreter does with whatever comes to its top
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    _end(code)


def _end(code: int) -> NoReturn:
    """End as the interpreter does: threads that are no daemons are waited for, what was registered is called."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    os.set_inheritable(answers.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end it
    sys.path.insert(0, str(ROOT))
    serve(requests, answers)
