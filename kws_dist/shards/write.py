"""Write a source's clips as shards, so that stopping at any moment costs at most the shard in hand.

A shard gets its name only when it is whole and its index lies beside it, `dataset.json` comes last, and the same
plan always gives the same bytes. So one rule serves for starting, continuing and repairing: keep what proves
to be right, write the rest.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Clip, Samples, Source
from kws_dist.errors import DataError, UsageError
from kws_dist.files import commit, locked, temporary, write_whole
from kws_dist.shards.check import CheckedShard, check_shard
from kws_dist.shards.index import ROW, SHARD_NAME, ShardIndex, index_path, load_index, pack_index
from kws_dist.shards.meta import CODEC, FORMAT_VERSION, META_NAME, DatasetMeta, contents, load_meta
from kws_dist.shards.plan import Plan, ShardPlan
from kws_dist.shards.record import BLOCK_BYTES, TRAILER, make_record

HOLD_BYTES = 512 << 20  # of audio in memory at once; an archive is streamed once per so many bytes of audio


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome: the dataset, and how many of its shards were there already."""

    meta: DatasetMeta
    kept_shards: int

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
    command: Collection[str],
    hold_bytes: int = HOLD_BYTES,
    on_clip: Callable[[Clip], None] = lambda _: None,
) -> Written:
    """Make `out` hold the dataset of the plan; `on_clip` hears of every clip that is read, or there already.

    Raises `UsageError` when `out` holds another dataset, `DataError` when the source fails or the disk is full.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is not a folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        _refuse_other_data(out, plan)
        kept = dict(_finished_shards(out, plan))
        missing = [shard for shard in plan.shards if shard.name not in kept]
        for clip in (clip for shard in plan.shards if shard.name in kept for clip in shard.clips):
            on_clip(clip)
        with source.staged([clip.key for shard in missing for clip in shard.clips], out):
            _write_shards(source, plan, missing, out, hold_bytes, on_clip)
        checked = [kept.get(shard.name) or check_shard(out / shard.name) for shard in plan.shards]
        meta = _describe(checked, plan, source, task, command)
        if not _is_described(out, meta):
            write_whole(out / META_NAME, meta.to_json())
    return Written(meta, len(kept))


def _refuse_other_data(out: Path, plan: Plan) -> None:
    """Raise `UsageError` rather than overwrite shards that another command made, or a stranger's files."""
    with contextlib.suppress(DataError):
        if load_meta(out / META_NAME).plan == plan.id:
            return  # a finished dataset of this very plan; what is damaged in it will be made again
        raise UsageError(f"--out {out} holds another finished dataset; choose another --out, or remove it first")
    shards = sorted(path for path in out.iterdir() if SHARD_NAME.fullmatch(path.name))
    for path in shards or out.glob(META_NAME):
        with contextlib.suppress(DataError):
            if load_index(index_path(path))[0].plan_id == plan.id:
                continue
        raise UsageError(
            f"{path} was not made by this command, or its index is damaged; choose another --out, or remove it first"
        )


def _finished_shards(out: Path, plan: Plan) -> Iterator[tuple[str, CheckedShard]]:
    for shard in plan.shards:
        with contextlib.suppress(DataError):
            checked = check_shard(out / shard.name)
            if checked.index.plan_id == plan.id:
                yield shard.name, checked


def _write_shards(
    source: Source,
    plan: Plan,
    shards: Iterable[ShardPlan],
    out: Path,
    hold_bytes: int,
    on_clip: Callable[[Clip], None],
) -> None:
    writer: _ShardWriter | None = None
    try:
        for group in _groups(shards, hold_bytes):
            audio = _read_all(source, [clip for _, clip in group], on_clip)
            for shard, clip in group:
                if writer is None or writer.shard is not shard:
                    writer = _ShardWriter(out, shard, plan)
                writer.append(clip, audio.pop(clip.key))
                if clip is shard.clips[-1]:
                    writer.finish()
    finally:
        if writer is not None:
            writer.close()


def _groups(shards: Iterable[ShardPlan], hold_bytes: int) -> Iterator[list[tuple[ShardPlan, Clip]]]:
    """Cut the clips, in the order they are written, into groups whose audio fits into memory."""
    group: list[tuple[ShardPlan, Clip]] = []
    held_bytes = 0
    for shard in shards:
        for clip in shard.clips:
            if group and held_bytes + clip.size_bytes > hold_bytes:
                yield group
                group, held_bytes = [], 0
            group.append((shard, clip))
            held_bytes += clip.size_bytes
    if group:
        yield group


def _read_all(source: Source, clips: Collection[Clip], on_clip: Callable[[Clip], None]) -> dict[str, Samples]:
    wanted = {clip.key: clip for clip in clips}
    audio: dict[str, Samples] = {}
    for key in wanted:
        audio[key] = source.read(key)
        on_clip(wanted[key])
    return audio


class _ShardWriter:
    """One shard in the making, under a temporary name until `finish`."""

    def __init__(self, out: Path, shard: ShardPlan, plan: Plan) -> None:
        self.shard = shard
        self._plan = plan
        self._path = out / shard.name
        speakers = sorted({clip.speaker for clip in shard.clips})
        self._number_of_speaker = {speaker: number for number, speaker in enumerate(speakers)}
        self._rows: list[tuple[int, ...]] = []
        self._offset = 0
        self._file = temporary(self._path).open("wb")

    def append(self, clip: Clip, samples: Samples) -> None:
        """Write one clip; in the order of the plan."""
        label, speaker = self._plan.label(clip), self._number_of_speaker[clip.speaker]
        record = make_record(clip, label, samples)
        place = (self._offset, len(record.data), self._offset + BLOCK_BYTES, record.audio_bytes, len(samples))
        self._rows.append((*place, label, speaker, record.checksum, record.record_checksum))
        self._offset += len(record.data)
        with _disk_errors(self._path):
            self._file.write(record.data)

    def finish(self) -> None:
        """Give the shard its name; its index first, so that a shard without one is never ours."""
        rows = np.array(self._rows, ROW)
        keys = tuple(clip.key for clip in self.shard.clips)
        index = ShardIndex(rows, keys, tuple(self._number_of_speaker), self._plan.id)
        with _disk_errors(self._path):
            self._file.write(TRAILER)
            write_whole(index_path(self._path), pack_index(index))
            commit(self._file, self._path)

    def close(self) -> None:
        """Remove what was not finished."""
        with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        temporary(self._path).unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); the same command continues with the finished shards"
        ) from error


def _describe(
    shards: list[CheckedShard], plan: Plan, source: Source, task: str, command: Collection[str]
) -> DatasetMeta:
    return DatasetMeta(
        format_version=FORMAT_VERSION,
        task=task,
        words=list(plan.words),
        sample_rate_hz=SAMPLE_RATE_HZ,
        codec=CODEC,
        **contents(((shard.entry.split, shard.index) for shard in shards), plan.words),
        shards=[shard.entry for shard in shards],
        source=source.provenance,
        command=list(command),
        seed=plan.seed,
        plan=plan.id,
    )


def _is_described(out: Path, meta: DatasetMeta) -> bool:
    """Whether `dataset.json` is there and right; its command and path may be those of an earlier run."""
    with contextlib.suppress(DataError):
        there = load_meta(out / META_NAME)
        return (there.digest, there.shards, there.words) == (meta.digest, meta.shards, meta.words)
    return False
