"""The program that started this process, where that is `accelerate launch`: its command, its terminal, its end.

On Ctrl-C a terminal signals all programs in its foreground. `accelerate launch` of one process dies of that at once,
with a traceback, and the shell comes back while its child still saves, out of the reach of another Ctrl-C. Of several
processes the launcher is in the foreground alone; it passes the first Ctrl-C on, and dies of the second at once.
"""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_PROGRAMS = {"accelerate", "accelerate-launch", "torchrun"}
_MODULES = {"accelerate.commands.accelerate_cli", "accelerate.commands.launch", "torch.distributed.run"}
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_SAY_LAST = """
import psutil, sys
if psutil.pid_exists(int(sys.argv[1])):
    psutil.wait_procs([psutil.Process(int(sys.argv[1]))], timeout=60)
print("", sys.argv[2], sep="\\n")
"""


@cache
def command() -> tuple[str, ...]:
    """Return the words of the command line that started this job, () if they cannot be known.

    In a job of SLURM they are those of its submission, without the options for sbatch. They cannot be known where
    several processes were started by something else than a launcher on this machine. Remembered, because the launcher
    may be gone when they are wanted.
    """
    if submitted := os.environ.get("KWS_SUBMITTED"):  # by slurm/train.sh
        return tuple(shlex.split(submitted))
    launched = _of_launcher()
    if launched or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return launched
    return (typed(sys.executable), *sys.argv)


def typed(program: str) -> str:
    """Return what to type for a program: its name, or its path where the shell would not find it by that."""
    path = Path(program)
    if shutil.which(path.name) == program:
        return path.name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else program


def _of_launcher() -> tuple[str, ...]:
    """Return the words with which a launcher started this process, () if none did."""
    try:
        launcher = psutil.Process(os.getppid())
        words, environment = launcher.cmdline(), launcher.environ()
    except psutil.Error:
        return ()
    if len(words) > 2 and words[1] == "-m" and words[2] in _MODULES:
        program = [typed(words[0]), *words[1:]]
    elif len(words) > 1 and Path(words[1]).name in _PROGRAMS:  # a script, which its interpreter runs
        program = [typed(words[1]), *words[2:]]
    else:
        return ()
    # What `accelerate launch` reads from its environment, and has no flag for.
    on_cpu = [f"{name}={environment[name]}" for name in ("ACCELERATE_USE_CPU",) if name in environment]
    return (*on_cpu, *program)


def command_line(words: Sequence[str], **options: object) -> str:
    """Return words as one line for a shell, with these flags set: `command_line(words, **{"--train.epochs": 60})`."""
    kept, dropped = list[str](), False
    for word in words:
        if not dropped and word.partition("=")[0] not in options:
            kept.append(word)
        dropped = not dropped and word in options  # its value comes next
    return shlex.join([*kept, *(str(part) for option in options.items() for part in option)])


def follow_launcher() -> None:
    """Have the kernel send this process SIGINT when its launcher is gone, where that passes signals on.

    So none of several processes outlives a launcher that was killed.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)


def say_last(text: str) -> None:
    """Print once more when the launcher has printed its traceback and is gone."""
    subprocess.Popen([sys.executable, "-c", _SAY_LAST, str(os.getppid()), text], start_new_session=True)


class Foreground:
    """Takes the terminal's foreground over from the launcher, so that Ctrl-C reaches this process alone.

    Only where the launcher is all that a shell has started: in a script or a makefile Ctrl-C is for those as well.
    With Ctrl-Z the launcher has to stop too, or the shell would wait for it: this process rejoins it for that.
    """

    def __init__(self) -> None:
        self._terminal: int | None = None
        self._launcher = os.getppid()
        self.is_launchers = False
        """Ctrl-C ends a launcher, which says so on the terminal."""

    def take(self) -> None:
        """Become the foreground, if the launcher is it and this process belongs to it."""
        self.is_launchers = bool(_of_launcher())
        if not self.is_launchers or os.getpgrp() != self._launcher:
            return
        with suppress(OSError):  # no terminal, or it is another session's
            if self._terminal is None:
                self._terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            if os.tcgetpgrp(self._terminal) == self._launcher:
                os.setpgid(0, 0)
                self._show(os.getpid())
                self.is_launchers = False
                signal.signal(signal.SIGTSTP, self._stop_together)

    def give_back(self) -> None:
        """Rejoin the launcher, and let it be the foreground again."""
        if self._terminal is None or os.getpgrp() == self._launcher:
            return
        with suppress(OSError):  # the launcher is gone
            if os.tcgetpgrp(self._terminal) == os.getpgrp():
                self._show(self._launcher)
            os.setpgid(0, self._launcher)

    def leave(self) -> None:
        """Give back, and let Ctrl-Z do what it does elsewhere."""
        self.give_back()
        if self._terminal is not None:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.close(self._terminal)
            self._terminal = None

    def _show(self, group: int) -> None:
        """Make a group of processes the foreground, which one in the background may only do with SIGTTOU blocked."""
        assert self._terminal is not None
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            os.tcsetpgrp(self._terminal, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _stop_together(self, *_: object) -> None:
        self.give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.killpg(self._launcher, signal.SIGTSTP)  # this process stops here, until the shell goes on with all of them
        self.take()
