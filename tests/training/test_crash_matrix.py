"""Killed with `kill -9` at any call of the file system that a save makes, a run goes on as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.dist)])
def test_a_crash_after_any_change_of_the_disk_leads_to_the_same_weights(
    shards: Path, tmp_path: Path, world: int
) -> None:
    """The calls are traced, and each that changes a file or a name is followed by a crash, also with half a file gone.

    `crash_script.py SHARDS FOLDER WORLD all` crashes before and after all others as well.
    """
    script = [sys.executable, str(ROOT / "tests" / "training" / "crash_script.py")]
    command = [*script, str(shards), str(tmp_path), str(world), "changes"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    crashes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [crash for crash in crashes if crash["problem"]] == []
    assert all(crash["ended"][0] == SIGKILL for crash in crashes), "each was killed where it was to be"
    names = {crash["name"] for crash in crashes}
    assert names >= {"mkdir", "open", "write", "flush", "rename", "replace", "unlink", "rmdir"}
    left = {name for crash in crashes for name in crash["left"]}
    assert {"best", "best.tmp", "best.old", "step-00000002.tmp"} <= left, "every state of a save was met"
