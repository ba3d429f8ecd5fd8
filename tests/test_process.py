"""Promises of the process's settings: the user's number of threads is kept, not the launcher's; where bf16 is fast."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kws_dist.process import has_fast_bf16, use_cores

CORES = os.sched_getaffinity(0)
BEFORE = len(CORES) + 1
"""Threads that nothing but a test sets."""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process that no launcher started and whose user asked for nothing; put back as it was afterwards."""
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ACCELERATE_DYNAMO_BACKEND", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(BEFORE)
    yield monkeypatch
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, CORES)


def test_a_process_takes_its_share_of_the_cores(fresh: pytest.MonkeyPatch) -> None:
    use_cores()
    assert torch.get_num_threads() == len(CORES)
    fresh.setenv("LOCAL_WORLD_SIZE", str(len(CORES)))
    use_cores()
    assert torch.get_num_threads() == 1


def test_a_process_takes_no_more_cores_than_it_may_use(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("OMP_NUM_THREADS", "1")
    fresh.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    os.sched_setaffinity(0, {min(CORES)})
    use_cores()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_that_the_user_asked_for_are_kept(fresh: pytest.MonkeyPatch, threads: str) -> None:
    fresh.setenv("OMP_NUM_THREADS", threads)
    use_cores()
    assert torch.get_num_threads() == BEFORE, "as torch took them from the environment"


@pytest.mark.parametrize(("asked", "seen", "kept"), [(None, "1", False), ("2", "2", True)])
def test_accelerate_launch_tells_the_users_threads_from_its_own(
    tmp_path: Path, asked: str | None, seen: str, kept: bool
) -> None:
    script = tmp_path / "show.py"
    script.write_text(
        "import os, torch\n"
        "from kws_dist.process import use_cores\n"
        f"torch.set_num_threads({BEFORE})\n"
        "use_cores()\n"
        "print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads())\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", str(script)]
    done = subprocess.run(
        command, env=env | ({"OMP_NUM_THREADS": asked} if asked else {}), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [seen, str(BEFORE if kept else len(CORES))]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux says there what the processor can do")
def test_bf16_is_fast_where_the_processor_has_instructions_for_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_fast_bf16() == bool(flags & {"avx512_bf16", "amx_bf16"})
