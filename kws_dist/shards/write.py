"""Make a dataset of a source, so that stopping at any moment costs at most the shards in hand.

A shard gets its name only when it is whole and its index lies beside it, `dataset.json` comes last, and the same
plan always gives the same bytes. So one rule serves for starting, continuing, repairing and for sharing the work
out over many jobs: keep what proves to be right, write the rest.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, SPLITS, Rejected, Source
from kws_dist.corpus.spool import remove_abandoned
from kws_dist.errors import DataError, UsageError
from kws_dist.files import locked, write_whole
from kws_dist.shards.check import CheckedShard, check_shard
from kws_dist.shards.index import SHARD_NAME, index_path, load_index
from kws_dist.shards.meta import (
    FORMAT_VERSION,
    META_NAME,
    REJECTED_NAME,
    DatasetMeta,
    contents,
    load_meta,
    pack_rejected,
)
from kws_dist.shards.plan import Plan, ShardPlan
from kws_dist.shards.pool import write_shards
from kws_dist.shards.unfinished import UNFINISHED_NAME, Unfinished, begin, describe, end, load_unfinished


@dataclass(frozen=True, slots=True)
class Written:
    """A finished dataset, how many of its shards were there already, and what was left out."""

    meta: DatasetMeta
    kept_shards: int
    rejected: list[Rejected]

    @property
    def was_complete(self) -> bool:
        """Nothing was left to write."""
        return self.kept_shards == len(self.meta.shards)


def write_dataset(
    source: Source,
    plan: Plan,
    out: Path,
    *,
    task: str,
    command: Sequence[str],
    workers: int = 1,
    on_clips: Callable[[int], None] = lambda _: None,
) -> Written:
    """Make `out` hold the dataset of the plan; `on_clips` hears of clips that are written, or there already.

    Raises `UsageError` when `out` holds another dataset, `DataError` when the source fails or the disk is full.
    """
    _make_folder(out)
    with locked(out):
        unfinished = _begin(source, plan, out, task, command)
        kept = _write_missing(source, plan, plan.shards, out, workers, on_clips)
        meta, rejected = _finish(out, unfinished, kept, workers)
    return Written(meta, len(kept), rejected)


def write_part(
    source: Source,
    plan: Plan,
    out: Path,
    *,
    part: tuple[int, int],
    task: str,
    command: Sequence[str],
    workers: int = 1,
    on_clips: Callable[[int], None] = lambda _: None,
) -> int:
    """Write every `count`-th shard of the plan, from `index` on, `part` being (index, count); returns how many.

    Any number of jobs can do this at once in one folder; `merge_dataset` then makes it a dataset.
    """
    _make_folder(out)
    with locked(out, shared=True):
        _begin(source, plan, out, task, command)
        shards = plan.shards[part[0] :: part[1]]
        _write_missing(source, plan, shards, out, workers, on_clips)
    return len(shards)


def merge_dataset(out: Path, *, workers: int = 1) -> Written:
    """Check every shard that the parts have written and write `dataset.json`."""
    if not (out / UNFINISHED_NAME).is_file():
        finished = (out / META_NAME).is_file()
        raise UsageError(f"--out {out}: {'finished already' if finished else 'no parts of a dataset are in it'}")
    with locked(out):
        unfinished = load_unfinished(out)
        missing = [name for name, _ in unfinished.shards if not (out / name).is_file()]
        if missing:
            raise UsageError(
                f"--out {out}: {len(missing)} of {len(unfinished.shards)} shards are missing, the first {missing[0]};"
                " run the parts that were not finished again"
            )
        meta, rejected = _finish(out, unfinished, {}, workers)
    return Written(meta, 0, rejected)


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is not a folder")
    out.mkdir(parents=True, exist_ok=True)


def _begin(source: Source, plan: Plan, out: Path, task: str, command: Sequence[str]) -> Unfinished:
    """Take possession of the folder, unless it holds something else."""
    wanted = describe(source, plan, task, list(command))
    if _holds_finished(out, plan):
        return wanted
    if not (out / UNFINISHED_NAME).exists():
        _refuse_strangers(out, plan)
    return begin(out, wanted)


def _holds_finished(out: Path, plan: Plan) -> bool:
    there = _load_if_sound(out)
    if there is not None and there.plan != plan.id:
        raise UsageError(f"--out {out} holds another finished dataset; choose another --out, or remove it first")
    return there is not None  # what is damaged in it will be made again


def _refuse_strangers(out: Path, plan: Plan) -> None:
    """Raise `UsageError` rather than overwrite files that another program made."""
    shards = sorted(path for path in out.iterdir() if SHARD_NAME.fullmatch(path.name))
    for path in shards or out.glob(META_NAME):
        with contextlib.suppress(DataError):
            if load_index(index_path(path))[0].plan_id == plan.id:
                continue
        raise UsageError(
            f"{path} was not made by this command, or its index is damaged; choose another --out, or remove it first"
        )


def _write_missing(
    source: Source,
    plan: Plan,
    shards: Sequence[ShardPlan],
    out: Path,
    workers: int,
    on_clips: Callable[[int], None],
) -> dict[str, CheckedShard]:
    """Write the shards that are not there yet; returns those that were."""
    kept = dict(_finished_shards(shards, plan, out, workers))
    missing = [shard for shard in shards if shard.name not in kept]
    on_clips(sum(len(shard.clips) for shard in shards if shard.name in kept))
    if missing:
        with source.staged([clip.key for shard in missing for clip in shard.clips], out):
            write_shards(source, plan, missing, out, workers=workers, on_clips=on_clips)
    return kept


def _finished_shards(
    shards: Sequence[ShardPlan], plan: Plan, out: Path, workers: int
) -> Iterator[tuple[str, CheckedShard]]:
    """Find the shards that are whole and account for every clip of the plan."""

    def check(shard: ShardPlan) -> CheckedShard | None:
        with contextlib.suppress(DataError):
            checked = check_shard(out / shard.name)
            clips = {*checked.index.keys, *(row.name for row in checked.index.rejected)}
            if checked.index.plan_id == plan.id and clips == {clip.key for clip in shard.clips}:
                return checked
        return None

    with ThreadPoolExecutor(workers) as threads:  # hashing leaves Python's lock to the others
        for shard, checked in zip(shards, threads.map(check, shards), strict=True):
            if checked is not None:
                yield shard.name, checked


def _finish(
    out: Path, unfinished: Unfinished, checked: dict[str, CheckedShard], workers: int
) -> tuple[DatasetMeta, list[Rejected]]:
    """Check what is not checked yet, and write `rejected.jsonl` and `dataset.json`."""
    names = [name for name, _ in unfinished.shards]
    with ThreadPoolExecutor(workers) as threads:
        shards = list(threads.map(lambda name: checked.get(name) or check_shard(out / name), names))
    rejected = [*unfinished.rejected, *(row for shard in shards for row in shard.index.rejected)]
    left_out = pack_rejected(rejected)
    meta = _describe(shards, unfinished, left_out)
    _check_accounts(out, unfinished, meta, shards)
    if not _is_there(out / REJECTED_NAME, left_out):
        write_whole(out / REJECTED_NAME, left_out)
    if not _is_described(out, meta):
        write_whole(out / META_NAME, meta.to_json())
    end(out)
    remove_abandoned(out)
    return meta, rejected


def _describe(shards: list[CheckedShard], unfinished: Unfinished, left_out: bytes) -> DatasetMeta:
    return DatasetMeta(
        format_version=FORMAT_VERSION,
        task=unfinished.task,
        words=unfinished.words,
        sample_rate_hz=SAMPLE_RATE_HZ,
        codec=unfinished.codec,
        **contents(((shard.entry.split, shard.index) for shard in shards), unfinished.words),
        shards=[shard.entry for shard in shards],
        rejected=left_out.count(b"\n"),
        rejected_sha256=hashlib.sha256(left_out).hexdigest(),
        source=unfinished.source,
        command=unfinished.command,
        seed=unfinished.seed,
        plan=unfinished.plan,
    )


def _check_accounts(out: Path, unfinished: Unfinished, meta: DatasetMeta, shards: list[CheckedShard]) -> None:
    """Raise `DataError` when the shards are not those of the plan, or when leaving clips out has lost a word."""
    for shard, (name, clips) in zip(shards, unfinished.shards, strict=True):
        if shard.index.plan_id != unfinished.plan or len(shard.index.keys) + len(shard.index.rejected) != clips:
            raise DataError(f"{out / name}: not the shard that was planned; remove it and run the same command again")
        for row in shard.index.rejected:
            if row.split in SPLITS and not meta.clips_per_word[row.split][row.word]:
                raise DataError(
                    f"{out}: no clip of {row.word!r} in {row.split} could be used, such as {row.name}: {row.reason};"
                    " mend the recordings, or choose other words, and begin again in another --out"
                )
    before = _load_if_sound(out)
    if before is not None and before.digest != meta.digest:
        raise DataError(f"{out}: the recordings have changed since; make them into shards again in another --out")


def _is_there(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _is_described(out: Path, meta: DatasetMeta) -> bool:
    """Whether `dataset.json` is there and right; its command and path may be those of an earlier run."""
    there = _load_if_sound(out)
    return there is not None and replace(there, command=meta.command, source=meta.source, task=meta.task) == meta


def _load_if_sound(out: Path) -> DatasetMeta | None:
    with contextlib.suppress(DataError):
        return load_meta(out / META_NAME)
    return None
