"""Killed with `kill -9` at any call of the file system that a save makes, a run goes on as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_corpus
from launching import ROOT, environment

SIGKILL = 9


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards without a validation split."""
    folder = tmp_path_factory.mktemp("without validation")
    files = tiny_corpus.files() | {"validation_list.txt": b""}
    return tiny_corpus.shards_of(tiny_corpus.pack(folder / "tiny.tar.gz", files), folder / "shards")


def crashed(shards: Path, folder: Path, *how: int | str) -> list[dict[str, Any]]:
    """The crashes of `crash_script.py`, all of which ended well."""
    script = [sys.executable, str(ROOT / "tests" / "training" / "crash_script.py")]
    command = [*script, str(shards), str(folder), *map(str, how)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    crashes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [crash for crash in crashes if crash["problem"]] == []
    assert all(crash["ended"][0] == SIGKILL for crash in crashes), "each was killed where it was to be"
    return crashes


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=[pytest.mark.dist, pytest.mark.slow])])
def test_a_crash_after_any_change_of_the_disk_leads_to_the_same_weights(
    shards: Path, tmp_path: Path, world: int
) -> None:
    """The calls are traced, and each that changes a file or a name is followed by a crash, also with half a file gone.

    `crash_script.py SHARDS FOLDER WORLD all` crashes before and after all others as well.
    """
    crashes = crashed(shards, tmp_path, world, "changes")
    names = {crash["name"] for crash in crashes}
    assert names >= {"mkdir", "open", "write", "flush", "rename", "replace", "unlink", "rmdir"}
    left = {name for crash in crashes for name in crash["left"]}
    assert {"best", "best.tmp", "best.old", "step-00000002.tmp"} <= left, "every state of a save was met"


@pytest.mark.dist
def test_so_does_a_crash_of_one_of_two_processes_after_a_fifth_of_them(shards: Path, tmp_path: Path) -> None:
    """The disk is the same as with one process, so a sample shows what the other process makes of it."""
    crashes = crashed(shards, tmp_path, 2, "changes", 5)
    assert {"after", "torn"} <= {crash["when"] for crash in crashes}
    assert {crash["save"] for crash in crashes} == {0, 2}, "the first save, and one that replaces and removes"
