"""Reads what the W&B client has recorded in a run folder, to compare it with what was logged."""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record as Message


def forget_who_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is, whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no_config"))


@dataclass(frozen=True)
class ReadArtifact:
    """A version of an artifact; `files` are where they lie until they are uploaded."""

    name: str
    type: str
    aliases: set[str]
    metadata: dict[str, Any]
    files: dict[str, Path]


class ReadRun:
    """What a `.wandb` file holds."""

    def __init__(self) -> None:
        self.id = self.name = self.project = self.entity = self.sweep_id = self.notes = ""
        self.tags: list[str] = []
        self.artifacts: list[ReadArtifact] = []
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.x_axis: dict[str, str] = {}
        self.exit_code: int | None = None


def only_run(run_dir: Path) -> ReadRun:
    (run,) = runs(run_dir)
    return run


def runs(run_dir: Path) -> list[ReadRun]:
    return [read_run(folder) for folder in run_dir.glob("wandb/*run-*")]


def read_run(folder: Path) -> ReadRun:
    """Read the client's record of one run through the client's own message types."""
    (file,) = folder.glob("*.wandb")
    run = ReadRun()
    for data in leveldb_records(file.read_bytes()):
        message = Message.FromString(data)
        kind = message.WhichOneof("record_type")
        if kind == "run":
            for name in ("project", "entity", "sweep_id", "notes"):
                setattr(run, name, getattr(message.run, name))
            run.id, run.name, run.tags = message.run.run_id, message.run.display_name, list(message.run.tags)
            run.config.update(values(message.run.config.update))
        elif kind == "config":
            run.config.update(values(message.config.update))
        elif kind == "artifact":
            run.artifacts.append(artifact_of(message.artifact))
        elif kind == "history":
            run.history.append(values(message.history.item))
        elif kind == "summary":
            run.summary.update(values(message.summary.update))
        elif kind == "metric" and message.metric.glob_name:
            run.x_axis[message.metric.glob_name] = message.metric.step_metric
        elif kind == "exit":
            run.exit_code = message.exit.exit_code
    return run


def artifact_of(artifact: Any) -> ReadArtifact:
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    metadata = json.loads(artifact.metadata or "{}")
    return ReadArtifact(artifact.name, artifact.type, set(artifact.aliases), metadata, files)


def values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log, https://github.com/google/leveldb/blob/main/doc/log_format.md."""
    header, block_bytes = struct.Struct("<IHB"), 32768
    last_fragments = (1, 4)  # FULL and LAST
    assert log[:4] == b":W&B"
    at, record_so_far = 7, b""
    while at + header.size <= len(log):
        if (room := block_bytes - at % block_bytes) < header.size:
            at += room
            continue
        _, length, kind = header.unpack_from(log, at)
        at += header.size + length
        record_so_far += log[at - length : at]
        if kind in last_fragments:
            yield record_so_far
            record_so_far = b""
