"""Keeps two jobs out of one run folder, on one machine or on several that share a file system.

`RUN/lock` names its owner, who holds it with flock(2). The kernel lets go of that however the owner dies, so a crash
costs nothing. Not every shared file system has it: Lustre may refuse it, and on NFS with `local_lock`, BeeGFS or a FUSE
mount it may hold on one machine only. So an owner also gives a sign of life each few seconds, the time stamp of the
file, and a job on another machine takes over only from one that gives none for a while. Such an owner was not dead for
certain: it may have been frozen. It learns of it by `RunLock.check`, which comes before whatever it saves.

No clocks are compared: a stamp is only seen to change, and what is waited for is waited for by the monotonic clock.
"""

import errno
import fcntl
import json
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from kws_dist.errors import DataError, UsageError

_LOOKS_PER_BEAT = 4
_RECORD_BYTES = 1024  # always written whole, so that nothing of a longer one before is left


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process, for as long as it runs."""

    host: str
    """The machine, by its name for people."""
    machine: str
    """The same, so that no other has it: since when it runs, and among which processes `pid` is counted."""
    pid: int
    started: str
    """When the process started, in clock ticks since the machine did: another one may get its number later."""
    since: str
    """When it took the lock, for people."""
    token: str
    """A random number."""

    @staticmethod
    def this_process() -> "Owner":
        """Describe a lock that is taken now, by this process."""
        return Owner(
            host=platform.node()[:64],
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            token=secrets.token_hex(16),
        )

    @staticmethod
    def parse(record: bytes) -> "Owner | None":
        """Read what `record` returned; None if it was released, or is damaged."""
        try:
            owner = Owner(**json.loads(record))
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.host, owner.machine, owner.started, owner.since, owner.token)
        is_whole = all(isinstance(text, str) and text.isprintable() for text in texts)
        return owner if is_whole and isinstance(owner.pid, int) and 0 < owner.pid < 2**31 else None

    def record(self) -> bytes:
        """Return the content of the lock's file."""
        return json.dumps(asdict(self)).encode().ljust(_RECORD_BYTES - 1) + b"\n"

    def runs_here(self) -> bool:
        """Whether the process still runs, of this machine."""
        return psutil.pid_exists(self.pid) and _started(self.pid) in (self.started, "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _machine() -> str:
    """Return what no other machine has, nor this one after its next start, nor a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str | None:
    """Return when a process started; "" if that cannot be known, None if it has ended and is only not yet reaped."""
    try:
        state, *more = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state in "ZX" else more[18]  # field 22 of proc(5)


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds."""

    beat_s: float = 5.0
    """Between two signs of life."""
    watch_s: float = 30.0
    """How long an owner on another machine may give none."""
    settle_s: float = 1.0
    """How long two jobs that start at once may take to write, where only that decides between them."""


class RunLock:
    """The lock of a run folder, held in a `with` block by one process.

    Entering raises `UsageError` when another job has it, or when the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, note: Callable[[str], None], *, pace: Pace | None = None, with_flock: bool = True
    ) -> None:
        """Lock nothing yet. `note` is told in a sentence of a lock that another machine has left.

        `with_flock=False` is for file systems that would wrongly say they have it.
        """
        self._folder, self._path, self._note = folder, folder / "lock", note
        self._pace, self._with_flock = pace or Pace(), with_flock
        self._me, self._file = Owner.this_process(), -1
        self._end = threading.Event()
        self._life = threading.Thread(target=self._live, name="run_lock", daemon=True)

    def __enter__(self) -> Self:
        self._file = self._opened()
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        self._life.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go. The file stays, empty: a job that has opened it just before it is removed would lock a file
        that no later one sees."""
        self._end.set()
        self._life.join(self._pace.beat_s)  # longer only where the file system hangs
        with suppress(OSError):
            if self._look()[0] == self._me:
                os.ftruncate(self._file, 0)
        os.close(self._file)

    def check(self) -> None:
        """Raise `DataError` if another job has taken over: what this one would save now could mix with what that did.

        Reads a small file. Call it before each save.
        """
        try:
            holder, _ = self._look()
        except OSError:  # a file that is gone or cannot be read says nothing of another job
            return
        if holder != self._me:
            who = f"another job ({holder}) has" if holder else "another job has"
            raise DataError(
                f"{self._folder}: {who} taken this folder over, as this job, {self._me}, gave no sign of life for a"
                " while; this one stops and saves nothing more"
            )

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            raise UsageError(
                f"--run_dir {self._folder} cannot be written to ({error.strerror}): make it writable for you, or choose"
                " another"
            ) from None

    def _take(self) -> None:
        """Become the owner, or raise `UsageError`."""
        has_flock = self._flocked()
        holder, stamp = self._look()
        is_shared = holder is not None and holder.machine != self._me.machine
        if holder and is_shared:
            self._watch(holder, stamp)
        elif holder and not has_flock and holder.runs_here():
            raise self._refusal(holder)
        self._write()
        if is_shared or not has_flock:  # no call decides between two that come at once: the one that writes last has it
            time.sleep(self._pace.settle_s)
            holder, _ = self._look()
            if holder != self._me:
                raise self._refusal(holder)

    def _flocked(self) -> bool:
        """Whether the kernel now keeps others out, at least those on this machine."""
        if not self._with_flock:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(self._look()[0]) from None
        except OSError:
            return False
        return True

    def _watch(self, holder: Owner, stamp: int) -> None:
        """Return when an owner on another machine has let go, or gives no sign of life; raise `UsageError` if it does.

        Looks are counted, and not the time, so that a job that was frozen in between has looked just as often.
        """
        pace = self._pace
        self._note(
            f"{self._folder} was last used by {holder}, which did not end it in good order: watching for"
            f" {pace.watch_s:g} s whether it still runs"
        )
        for _ in range(math.ceil(pace.watch_s / pace.beat_s) * _LOOKS_PER_BEAT):
            time.sleep(pace.beat_s / _LOOKS_PER_BEAT)
            now, its_stamp = self._look()
            if now is None:
                return
            if (now, its_stamp) != (holder, stamp):
                raise self._refusal(now)
        self._note(f"{self._folder}: {holder}, gave no sign of life, so this job takes over")

    def _refusal(self, holder: Owner | None) -> UsageError:
        who = f" ({holder})" if holder else ""  # it is about to say so, or the file is damaged
        is_elsewhere = holder is not None and holder.machine != self._me.machine
        remedy = f" remove {self._path} if that machine is gone," if is_elsewhere else ""
        return UsageError(
            f"--run_dir {self._folder}: another process is writing to it{who}: wait for it to end, stop it,{remedy}"
            " or choose another --run_dir"
        )

    def _write(self) -> None:
        """Write in place: a new file would not be the one that is locked."""
        try:
            os.pwrite(self._file, self._me.record(), 0)
            os.fsync(self._file)
        except OSError as error:  # a full disk
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _look(self) -> tuple[Owner | None, int]:
        """Return who has the lock, and when that was last said.

        The file is opened anew, because only then is a network file system sure to ask its server.
        """
        with self._path.open("rb") as file:
            return Owner.parse(file.read(_RECORD_BYTES)), os.fstat(file.fileno()).st_mtime_ns

    def _live(self) -> None:
        """Give signs of life until the end. They leave the record alone, which may be another owner's any moment."""
        while not self._end.wait(self._pace.beat_s):
            with suppress(OSError):
                if self._look()[0] != self._me:
                    return
                os.utime(self._file)
