"""`unfinished.json`: what a folder is going to hold, there from the first shard until `dataset.json` is written.

It lets any number of jobs work on one folder, another program say which command goes on, and a last one put the
parts together without the recordings being listed again.
"""

import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kws_dist.corpus.clip import Rejected, Source
from kws_dist.errors import DataError, UsageError
from kws_dist.files import sync_folder
from kws_dist.shards.codec import Codec, codec_named
from kws_dist.shards.index import SHARD_NAME
from kws_dist.shards.plan import Plan

UNFINISHED_NAME = "unfinished.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The fields of `unfinished.json`."""

    plan: str
    """The `Plan.id`."""
    state: str
    """The `Source.state` when the folder was begun."""
    shards: list[list[Any]]
    """Name and number of clips of each shard."""
    words: list[str]
    task: str
    codec: Codec
    seed: int
    source: dict[str, Any]
    command: list[str]
    rejected: list[Rejected]
    """What was left out when the recordings were listed."""


def describe(source: Source, plan: Plan, task: str, command: list[str]) -> Unfinished:
    """Describe the dataset that a plan is going to make of a source."""
    return Unfinished(
        plan=plan.id,
        state=source.state,
        shards=[[shard.name, len(shard.clips)] for shard in plan.shards],
        words=list(plan.words),
        task=task,
        codec=plan.codec,
        seed=plan.seed,
        source=source.provenance,
        command=command,
        rejected=list(source.rejected),
    )


def begin(out: Path, wanted: Unfinished) -> Unfinished:
    """Write `unfinished.json`, or find that the folder was begun for the same; returns what is there.

    Raises `UsageError` if it was begun for something else, or if recordings have changed since.
    """
    path = out / UNFINISHED_NAME
    own = path.with_name(f"{UNFINISHED_NAME}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        with own.open("wb") as file:
            file.write(json.dumps(asdict(wanted), ensure_ascii=True).encode())
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(own)  # of several jobs that begin together, one is the first
        sync_folder(out)
    except FileExistsError:
        pass
    finally:
        own.unlink(missing_ok=True)
    there = load_unfinished(out)
    if there.plan != wanted.plan:
        raise UsageError(
            f"--out {out} holds another unfinished dataset, begun with: {shlex.join(there.command)}; choose another"
            " --out, or remove it first"
        )
    if there.state != wanted.state:
        raise UsageError(
            f"--out {out} was begun when some recordings were different (their times of change are new); "
            "choose another --out, or remove it and begin again"
        )
    return there


def load_unfinished(out: Path) -> Unfinished:
    """Read `unfinished.json`; raises `DataError` if it is damaged."""
    path = out / UNFINISHED_NAME
    try:
        raw = json.loads(path.read_bytes())
        rejected = [Rejected(**row) for row in raw.pop("rejected")]
        unfinished = Unfinished(**raw, rejected=rejected)
        _check(unfinished)
        return unfinished
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); remove the folder and begin again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _check(unfinished: Unfinished) -> None:
    """Raise an error unless the fields that say what is to be read and run are what they should be."""
    codec_named(unfinished.codec)
    for name, clips in unfinished.shards:
        if not SHARD_NAME.fullmatch(name) or type(clips) is not int:
            raise ValueError(f"{name!r} is no name of a shard")
    for text in (unfinished.plan, unfinished.state, unfinished.task, *unfinished.command, *unfinished.words):
        os.fsencode(text)  # TypeError for what is no text, UnicodeEncodeError for what no command line can have held


def end(out: Path) -> None:
    """Remove `unfinished.json` and what a killed job left of it."""
    for path in out.glob(f"{UNFINISHED_NAME}*"):
        path.unlink(missing_ok=True)
