"""One shard: clips in, and a tar and its index out, each whole or not there."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kws_dist.corpus.clip import Clip, Rejected, Samples, Source
from kws_dist.errors import ClipError, DataError
from kws_dist.files import commit, open_temporary, temporary, write_whole
from kws_dist.shards.index import ROW, ShardIndex, index_path, pack_index
from kws_dist.shards.plan import Plan, ShardPlan
from kws_dist.shards.record import BLOCK_BYTES, TRAILER, make_record


def write_shard(source: Source, plan: Plan, shard: ShardPlan, out: Path, on_clip: Callable[[], None]) -> None:
    """Write one shard of a staged source; `on_clip` hears of every clip that is done.

    A clip that cannot be used is left out and listed. Raises `DataError` when the source as a whole fails, or when
    the disk is full.
    """
    writer = _ShardWriter(out, shard, plan)
    try:
        for clip in shard.clips:
            try:
                samples = source.read(clip.key)
            except ClipError as error:
                writer.leave_out(clip, str(error))
            else:
                writer.append(clip, samples)
            on_clip()
        writer.finish()
    finally:
        writer.close()


class _ShardWriter:
    """One shard in the making, under a temporary name until `finish`."""

    def __init__(self, out: Path, shard: ShardPlan, plan: Plan) -> None:
        self._plan, self._path = plan, out / shard.name
        speakers = sorted({clip.speaker for clip in shard.clips})
        self._number_of_speaker = {speaker: number for number, speaker in enumerate(speakers)}
        self._rows: list[tuple[int, ...]] = []
        self._keys: list[str] = []
        self._rejected: list[Rejected] = []
        self._offset = 0
        with _disk_errors(self._path):
            self._file = open_temporary(self._path)

    def append(self, clip: Clip, samples: Samples) -> None:
        """Write one clip; in the order of the plan."""
        label, speaker = self._plan.label(clip), self._number_of_speaker[clip.speaker]
        record = make_record(clip, label, samples, self._plan.codec)
        place = (self._offset, len(record.data), self._offset + BLOCK_BYTES, record.audio_bytes, len(samples))
        self._rows.append((*place, label, speaker, record.checksum, record.record_checksum))
        self._keys.append(clip.key)
        self._offset += len(record.data)
        with _disk_errors(self._path):
            self._file.write(record.data)

    def leave_out(self, clip: Clip, reason: str) -> None:
        """Note that a clip of the plan cannot be written."""
        self._rejected.append(Rejected(name=clip.key, reason=reason, word=clip.word, split=clip.split))

    def finish(self) -> None:
        """Give the shard its name; its index first, so that a shard without one is never ours."""
        index = ShardIndex(
            rows=np.array(self._rows, ROW),
            keys=tuple(self._keys),
            speakers=tuple(self._number_of_speaker),
            plan_id=self._plan.id,
            codec=self._plan.codec,
            rejected=tuple(self._rejected),
        )
        with _disk_errors(self._path):
            self._file.write(TRAILER)
            write_whole(index_path(self._path), pack_index(index))
            commit(self._file, self._path)

    def close(self) -> None:
        """Remove what was not finished."""
        if not self._file.closed:
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
