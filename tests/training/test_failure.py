"""When one of two real processes ends, both end within seconds, and the first thing said is why."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from launching import SMALL, environment, two_ranks

from kws_dist.shards.read import open_dataset

pytestmark = pytest.mark.dist

WITHIN_S = 20  # of the failure; left alone, the launcher waits for 30 and a collective for minutes
SCRIPT = "tests/training/failing_script.py"
DAMAGE = "train-000000.tar: clip 'yes/1' is damaged: make the shards again"
OF_THE_LAUNCHER = re.compile(r"\[?W\d{4} |The following values|\t|To avoid this warning")


def said(command: list[str], *, expect: int = 1) -> tuple[list[str], str]:
    """Run a command that fails; return the lines that its ranks print to stderr, and what went to stdout."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, done.stderr
    of_ranks = re.split(r"^E\d{4} .*torch/distributed/elastic", done.stderr, maxsplit=1, flags=re.MULTILINE)[0]
    return [line for line in of_ranks.splitlines() if not OF_THE_LAUNCHER.match(line)], done.stdout


def said_by_script(*arguments: str, expect: int = 1) -> list[str]:
    """Return what the ranks of the failing script say, which must all have ended soon."""
    lines, failed_at_s = said(two_ranks(SCRIPT, *arguments), expect=expect)
    assert time.time() - float(failed_at_s.split()[0]) < WITHIN_S
    return lines


def test_a_rank_that_fails_ends_one_that_no_signal_reaches() -> None:
    assert said_by_script("damage", "1", "stuck") == [
        DAMAGE,
        f"rank 0 ends because rank 1 ended with an error: {DAMAGE}",
    ]


def test_a_fault_has_the_only_traceback_and_the_broken_collective_of_the_other_rank_none() -> None:
    lines = said_by_script("fault", "0", "collective")
    assert lines[0].startswith("Traceback")
    error = "ZeroDivisionError: a fault of the program"
    assert lines[-2:] == [error, f"rank 1 ends because rank 0 ended with an error: {error}"]
    assert sum(line.startswith("Traceback") for line in lines) == 1


def test_what_all_ranks_find_wrong_is_said_once() -> None:
    assert said_by_script("mistake", "0,1", "stuck") == [
        "--train.global_batch 13 should be divisible by 2: choose 12 or 14"
    ]


@pytest.mark.parametrize("meanwhile", ["collective", "stuck"])
def test_a_rank_that_is_killed_is_named(meanwhile: str) -> None:
    (line,) = said_by_script("killed", "0", meanwhile)
    assert re.fullmatch(r"rank 1 ends because rank 0 \(process \d+ on .*\) is gone without a word: .*memory.*", line)


def test_ranks_do_not_outlive_a_launcher_that_is_killed() -> None:
    lines = [line for line in said_by_script("orphaned", "0", "stuck", expect=-9) if line.startswith("rank ")]
    reason = "the process on 127.0.0.1 that holds the ranks together is gone"
    assert sorted(lines) == [f"rank {rank} ends because {reason}" for rank in (0, 1)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_clip_that_one_rank_meets_ends_the_whole_training_with_its_name(
    split: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(tiny_dataset, tmp_path / "shards"))
    rows = open_dataset(shards).rows(split)
    with rows.shard_paths[rows.shard[4]].open("r+b") as shard:
        shard.seek(rows.audio_offset[4] + rows.audio_bytes[4] - 1)
        shard.write(b"\x5a")
    lines, _ = said(
        two_ranks(
            "launch/train.py",
            *("--data.shards", shards, "--run_dir", tmp_path / "run", *SMALL),
            *("--data.residency", "host", "--data.balance", "0"),
        )
    )
    assert len(lines) == 2, lines
    first, second = lines
    assert rows.keys[4] in first
    assert re.fullmatch(rf"rank [01] ends because rank [01] ended with an error: {re.escape(first)}", second)
