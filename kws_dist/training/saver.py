"""Writes checkpoints in a thread while training goes on: the step waits only for a copy of the tensors in host memory.

What cannot be written, because the disk is full or its server is away, does not end the training. The checkpoints on
the disk stay as they are, and the best weights wait in memory for the next save.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from kws_dist.errors import DataError
from kws_dist.run import RunFolder
from kws_dist.training import checkpoint

_SPARE_BYTES = 1 << 20  # for the other files of a run
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, as it was at its step."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    is_best: bool


class Saver:
    """Writes the checkpoints of a run, one after another. For rank 0 alone.

    `warn` is told, from a thread, of what cannot be written; `saved` is called, by whoever calls this, with the folder
    of each checkpoint that was, and whether it was the best.
    """

    def __init__(self, run: RunFolder, warn: Callable[[str], None], saved: Callable[[Path, bool], None]) -> None:
        self._run, self._folder, self._warn, self._saved = run, run.checkpoints, warn, saved
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._writing: Future[list[tuple[Path, bool]]] | None = None
        self._failed: tuple[Snapshot, OSError] | None = None
        self._unsaved_best: Snapshot | None = None
        self.waited_s = 0.0
        """How long training has waited for all of its saves."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing:  # others hear of an error after this, and the disk may be what hangs
            wait([self._writing], timeout=_PATIENCE_S if error else None)
        self._thread.shutdown(wait=False)

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot of the tensors as they are now, in the background; waits for the snapshot before it."""
        started_s = time.perf_counter()
        self.wait()
        tensors = {part: {name: _copy(each) for name, each in some.items()} for part, some in snapshot.tensors.items()}
        self._writing = self._thread.submit(self._write, replace(snapshot, tensors=tensors))
        self.waited_s += time.perf_counter() - started_s

    def wait(self) -> None:
        """Return when nothing is being written; raises what went wrong, unless it was the disk."""
        if self._writing:
            written, self._writing = self._writing, None
            for path, is_best in written.result():
                self._saved(path, is_best)

    def forget(self) -> None:
        """Return when nothing is being written; what could not be written will not be, as the run goes back."""
        self.wait()
        self._failed = self._unsaved_best = None

    def finish(self) -> None:
        """Return when all is written; what failed is tried once more, and now `DataError` says if that fails too."""
        self.wait()
        if self._failed:
            self._writing = self._thread.submit(self._write, self._failed[0], is_last=True)
            self.wait()
        if self._failed:
            raise DataError(f"{self._sentence(*self._failed)}: make room, and the same command goes on from there")

    def _write(self, snapshot: Snapshot, *, is_last: bool = False) -> list[tuple[Path, bool]]:
        """Write a checkpoint, after the best one, so that none ever speaks of a best one that is not there yet."""
        if snapshot.is_best:
            self._unsaved_best = snapshot
        try:
            self._run.check_ours()
            self._write_files(snapshot)
            self._run.set_state("running", snapshot.step)
        except OSError as error:
            self._give_up(snapshot, error)
            if not is_last:
                self._warn(f"{self._sentence(snapshot, error)}; training goes on, and the next save tries again")
            return []
        self._failed = None
        self._prune()
        return [(self._folder / checkpoint.step_name(snapshot.step), snapshot.is_best)]

    def _write_files(self, snapshot: Snapshot) -> None:
        contents, best = checkpoint.pack(snapshot.tensors, snapshot.state), self._unsaved_best
        needed = sum(map(len, contents.values())) * (2 if best else 1) + _SPARE_BYTES
        self._folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if best:
            of_best = contents if best is snapshot else checkpoint.pack(best.tensors, best.state)
            checkpoint.write(self._folder / "best", of_best)
            self._unsaved_best = None
        checkpoint.write(self._folder / checkpoint.step_name(snapshot.step), contents)

    def _give_up(self, snapshot: Snapshot, error: OSError) -> None:
        self._failed = snapshot, error
        with suppress(OSError):  # a disk that is away; `tidy` comes by at the next start
            checkpoint.discard_drafts(self._folder)  # they take the room that the next one will want

    def _prune(self) -> None:
        try:
            checkpoint.prune(self._folder)
        except OSError as error:
            self._warn(f"{error.filename or self._folder}: an old checkpoint cannot be removed ({error.strerror})")

    def _sentence(self, snapshot: Snapshot, error: OSError) -> str:
        kept = list[Path]()
        with suppress(OSError):
            kept = checkpoint.step_folders(self._folder)
        on_disk = f"{kept[-1].name} is kept" if kept else "there is none before it"
        return f"{self._folder}: the checkpoint of step {snapshot.step} cannot be written ({error.strerror}), {on_disk}"


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
