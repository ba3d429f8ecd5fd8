"""One job at a time uses a run folder, whatever becomes of the others.

A process in namespaces of its own has another host name and counts processes for itself: to the lock it is another
machine. `with_flock=False` is a file system that refuses flock(2), or that has it on each machine for itself.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws_dist.errors import DataError, UsageError
from kws_dist.run_lock import Owner, Pace, RunLock

JOB = """
import json, sys
from pathlib import Path
from kws_dist.errors import DataError, UsageError
from kws_dist.run_lock import Pace, RunLock

folder, with_flock, pace = Path(sys.argv[1]), sys.argv[2] == "True", Pace(*map(float, sys.argv[3:]))
for line in sys.stdin:
    said, refused = [], ""
    try:
        if line == "take\\n":
            lock = RunLock(folder, said.append, pace=pace, with_flock=with_flock)
            lock.__enter__()
        elif line == "check\\n":
            lock.check()
        elif line == "free\\n":
            lock.__exit__(None, None, None)
    except (DataError, UsageError) as error:
        refused = str(error)
    print(json.dumps({"refused": refused, "said": said}), flush=True)
"""
QUICK = Pace(beat_s=0.1, watch_s=0.5, settle_s=0.2)
PATIENT = replace(QUICK, watch_s=60.0)  # for whom it does not wait: a sign of life ends the watch
AS_ANOTHER_MACHINE = (
    "unshare",
    "--uts",
    "--pid",
    "--fork",
    "--mount-proc",
    "sh",
    "-c",
    'hostname node7; exec "$@"',
    "sh",
)


class Job:
    """A process that takes, checks and frees a lock as it is told."""

    def __init__(
        self, folder: Path, *, with_flock: bool = True, pace: Pace = QUICK, before: tuple[str, ...] = ()
    ) -> None:
        settings = (str(folder), str(with_flock), str(pace.beat_s), str(pace.watch_s), str(pace.settle_s))
        self._process = subprocess.Popen(
            [*before, sys.executable, "-c", JOB, *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(self.pid).kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """The process that has the lock."""
        return next(iter(psutil.Process(self._process.pid).children()), self._process).pid

    def tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def do(self, what: str) -> dict[str, Any]:
        self.tell(what)
        return self.answer()


@pytest.fixture
def jobs() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def other_machine() -> tuple[str, ...]:
    """What to put before a command so that it runs on what the lock takes for another machine."""
    if subprocess.run([*AS_ANOTHER_MACHINE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces cannot be made here")
    return AS_ANOTHER_MACHINE


def owner_elsewhere(folder: Path) -> Owner:
    """Leave the lock of a job on another machine."""
    owner = replace(Owner.this_process(), host="node9", machine="another", token="00")
    (folder / "lock").write_bytes(owner.record())
    return owner


TAKEN = {"refused": "", "said": []}
either = pytest.mark.parametrize("with_flock", [True, False])


@either
@pytest.mark.parametrize("is_reaped", [True, False])
def test_the_lock_of_a_killed_job_is_taken_at_once(
    jobs: ExitStack, tmp_path: Path, with_flock: bool, is_reaped: bool
) -> None:
    first = jobs.enter_context(Job(tmp_path, with_flock=with_flock))
    assert first.do("take") == TAKEN
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))
    assert (tmp_path / "lock").stat().st_size > 0
    assert jobs.enter_context(Job(tmp_path, with_flock=with_flock)).do("take") == TAKEN


@either
def test_a_frozen_job_on_the_same_machine_keeps_its_lock(jobs: ExitStack, tmp_path: Path, with_flock: bool) -> None:
    first, second = (jobs.enter_context(Job(tmp_path, with_flock=with_flock)) for _ in range(2))
    first.do("take")
    os.kill(first.pid, signal.SIGSTOP)
    refused = second.do("take")["refused"]
    assert (
        f"--run_dir {tmp_path}: another process is writing to it (process {first.pid} on {os.uname().nodename}"
        in refused
    )
    assert refused.endswith("wait for it to end, stop it, or choose another --run_dir")
    os.kill(first.pid, signal.SIGCONT)
    assert first.do("check") == TAKEN


@either
def test_of_two_jobs_that_start_at_once_exactly_one_goes_on(jobs: ExitStack, tmp_path: Path, with_flock: bool) -> None:
    two = [jobs.enter_context(Job(tmp_path, with_flock=with_flock)) for _ in range(2)]
    for _ in range(40 if with_flock else 8):
        for job in two:
            job.tell("take")
        taken = [job for job in two if job.answer() == TAKEN]
        going_on = [job for job in two if job.do("check") == TAKEN]
        assert len(going_on) == 1
        assert len(taken) == 1 or not with_flock, "only a slow disk can let two in, until the first looks again"
        assert going_on[0] in taken
        assert going_on[0].do("free") == TAKEN


def test_where_no_flock_decides_the_job_that_writes_last_has_the_lock(jobs: ExitStack, tmp_path: Path) -> None:
    job = jobs.enter_context(Job(tmp_path, with_flock=False, pace=replace(QUICK, settle_s=1.0)))
    job.tell("take")
    while not (tmp_path / "lock").exists() or (tmp_path / "lock").stat().st_size == 0:
        pass
    owner_elsewhere(tmp_path)
    assert "on node9" in job.answer()["refused"]


@either
def test_a_lock_that_was_freed_is_taken_at_once_from_another_machine_too(
    jobs: ExitStack, tmp_path: Path, with_flock: bool, other_machine: tuple[str, ...]
) -> None:
    first = jobs.enter_context(Job(tmp_path, with_flock=with_flock, before=other_machine))
    assert first.do("take") == TAKEN
    assert first.do("free") == TAKEN
    assert jobs.enter_context(Job(tmp_path, with_flock=with_flock)).do("take") == TAKEN


def test_another_process_that_has_got_the_number_of_a_dead_one_does_not_count_as_that(
    jobs: ExitStack, tmp_path: Path
) -> None:
    alive = jobs.enter_context(Job(tmp_path))
    (tmp_path / "lock").write_bytes(replace(Owner.this_process(), pid=alive.pid, started="1", token="00").record())
    assert jobs.enter_context(Job(tmp_path, with_flock=False)).do("take") == TAKEN


def test_a_job_that_lives_on_another_machine_keeps_its_lock(
    jobs: ExitStack, tmp_path: Path, other_machine: tuple[str, ...]
) -> None:
    first = jobs.enter_context(Job(tmp_path, with_flock=False, before=other_machine))
    second = jobs.enter_context(Job(tmp_path, with_flock=False, pace=PATIENT))
    assert first.do("take") == TAKEN
    answer = second.do("take")
    assert "on node7" in answer["refused"]
    assert f"remove {tmp_path / 'lock'} if that machine is gone" in answer["refused"]
    assert ["watching for 60 s" in sentence for sentence in answer["said"]] == [True]
    assert first.do("check") == TAKEN


@either
def test_the_lock_of_a_job_that_died_on_another_machine_is_taken_after_a_watch(
    jobs: ExitStack, tmp_path: Path, with_flock: bool, other_machine: tuple[str, ...]
) -> None:
    first = jobs.enter_context(Job(tmp_path, with_flock=with_flock, before=other_machine))
    first.do("take")
    process = psutil.Process(first.pid)
    process.kill()
    process.wait()
    answer = jobs.enter_context(Job(tmp_path, with_flock=with_flock)).do("take")
    assert answer["refused"] == ""
    assert "node7" in answer["said"][0]
    assert answer["said"][1].endswith("gave no sign of life, so this job takes over")


def test_a_job_that_was_frozen_while_another_machine_took_over_saves_nothing_more(
    jobs: ExitStack, tmp_path: Path, other_machine: tuple[str, ...]
) -> None:
    first = jobs.enter_context(Job(tmp_path, with_flock=False, before=other_machine))
    second = jobs.enter_context(Job(tmp_path, with_flock=False))
    first.do("take")
    os.kill(first.pid, signal.SIGSTOP)
    assert second.do("take")["refused"] == ""
    os.kill(first.pid, signal.SIGCONT)
    assert f"another job (process {second.pid} on" in first.do("check")["refused"]
    assert first.do("free") == TAKEN
    assert second.do("check") == TAKEN, "the lock is not the first one's to free"
    assert second.do("free") == TAKEN
    assert "another job has taken this folder over" in first.do("check")["refused"]


def test_a_clock_that_goes_back_on_another_machine_is_a_sign_of_life(tmp_path: Path) -> None:
    owner_elsewhere(tmp_path)
    lock = tmp_path / "lock"
    stamp_ns, end = lock.stat().st_mtime_ns, threading.Event()

    def live() -> None:
        hours = 0
        while not end.wait(0.1):
            hours += 1
            os.utime(lock, ns=(0, stamp_ns - hours * 3600 * 10**9))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(UsageError, match="on node9"), RunLock(tmp_path, lambda _: None, pace=PATIENT):
            pass
    finally:
        end.set()
        thread.join()


def test_a_job_on_another_machine_that_ends_while_it_is_watched_leaves_the_lock(tmp_path: Path) -> None:
    owner_elsewhere(tmp_path)

    def end(_: str) -> None:
        (tmp_path / "lock").write_bytes(b"")

    with RunLock(tmp_path, end, pace=PATIENT) as lock:
        lock.check()


def test_who_removes_the_lock_lets_the_next_job_in_and_the_first_one_learns_of_it(
    jobs: ExitStack, tmp_path: Path
) -> None:
    with RunLock(tmp_path, pytest.fail, pace=QUICK) as lock:
        (tmp_path / "lock").unlink()
        lock.check()
        second = jobs.enter_context(Job(tmp_path))
        assert second.do("take") == TAKEN
        with pytest.raises(DataError, match="taken this folder over"):
            lock.check()
    assert second.do("check") == TAKEN


def test_an_error_in_the_block_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path, pytest.fail, pace=QUICK):
        _ = 1 / 0
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_link_in_place_of_the_lock_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), RunLock(tmp_path, pytest.fail):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_whatever_is_in_the_file_is_an_owner_or_none(record: bytes) -> None:
    assert Owner.parse(record) is None


@given(
    st.sampled_from(["host", "machine", "pid", "started", "since", "token"]),
    st.none() | st.floats() | st.lists(st.integers()) | st.just("\x1b[2J") | st.integers(max_value=0),
)
def test_an_owner_with_a_field_that_cannot_be_is_none(name: str, value: object) -> None:
    record = {**json.loads(Owner.this_process().record()), name: value}
    assert Owner.parse(json.dumps(record).encode()) is None


def test_a_damaged_lock_is_taken(jobs: ExitStack, tmp_path: Path) -> None:
    for damaged in (b"\0" * 1024, b"{", Owner.this_process().record()[100:], os.urandom(3000)):
        (tmp_path / "lock").write_bytes(damaged)
        with RunLock(tmp_path, pytest.fail, pace=QUICK) as lock:
            lock.check()
            assert "is writing to it" in jobs.enter_context(Job(tmp_path)).do("take")["refused"]
