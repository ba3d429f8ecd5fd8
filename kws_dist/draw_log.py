"""The draw log (`--tracking.draws`): which clips were really trained on, for a proof that none was repeated or missed.

Each rank of each job has a file in RUN/draws of its own, a line of JSON per record. A record of a micro-batch is
written, and handed to the system, before the batch is handed to the training step: so a process that is killed has
trained on nothing that is not in its file. What is on file twice, because a job after a kill went on from an earlier
checkpoint, has to be the same both times; the last time is the one that counts.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.sampler import Draws
from kws_dist.errors import DataError

FOLDER = "draws"
PADDING = -1
"""Stands for the clip of a row that does not count."""
MISSING = -2
"""Stands for the clip of a row that no rank has taken down."""

_TAIL_BYTES = 1 << 20  # more than a record of the largest batch

Clips = NDArray[np.int32]


class HasDraws(Protocol):
    """A micro-batch, or what one is made of."""

    @property
    def draws(self) -> Draws:
        """What was drawn."""
        ...

    @property
    def weights(self) -> Tensor:
        """`(B,)` float32: 0 for rows that do not count."""
        ...


T = TypeVar("T", bound=HasDraws)


def next_job(run_dir: Path) -> int:
    """Return a number for a job that none of this run had before."""
    return 1 + max((_parsed_name(path)[0] for path in _files(run_dir)), default=0)


class DrawLog:
    """Takes down what one rank of one job trains on, for proof and not for speed: a GPU is waited for at each batch."""

    def __init__(self, run_dir: Path, job: int, batch_slice: BatchSlice) -> None:
        """`job` is the same on all ranks."""
        self._slice = batch_slice
        self._path = run_dir / FOLDER / f"job-{job:05d}-rank-{batch_slice.rank}-of-{batch_slice.world}.jsonl"
        self._file: BinaryIO | None = None

    def watched(
        self, batches: Callable[[int, int], Generator[T, None, None]]
    ) -> Callable[[int, int], Generator[T, None, None]]:
        """Return what yields the same micro-batches of the same steps, each once it is taken down."""

        def taken_down(first_step: int, last_step: int) -> Generator[T, None, None]:
            made = batches(first_step, last_step)
            try:
                self._begin(first_step)
                for step in range(first_step, last_step):
                    for micro_step, batch in enumerate(islice(made, self._slice.accumulate)):
                        self._take_down(step, micro_step, batch)
                        yield batch
            finally:
                made.close()

        return taken_down

    def _begin(self, step: int) -> None:
        place = {"rank": self._slice.rank, "world": self._slice.world, "global_batch": self._slice.global_batch}
        self._write({"begin": step, **place, "time": time.time()})

    def _take_down(self, step: int, micro_step: int, batch: HasDraws) -> None:
        clips = np.where(_on_host(batch.weights) > 0, _on_host(batch.draws.clip), PADDING)
        first = int(batch.draws.t[0])
        self._write({"step": step, "micro_step": micro_step, "first_draw": first, "clips": clips.tolist()})

    def _write(self, record: dict[str, Any]) -> None:
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("xb")
            self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            self._file.flush()  # to the system, which outlives this process
        except OSError as error:  # a proof with holes is none
            raise OSError(error.errno, f"the draw log cannot be written: {error.strerror}", str(self._path)) from error


@dataclass(frozen=True)
class Stretch:
    """What one job trained on from where it began, or from where it went back to: the rows of all its ranks joined."""

    job: int
    begin: int
    """Its first step."""
    world: int
    steps: dict[int, Clips]
    """Step to the clips of its draws, `(global_batch,)` in the order of their numbers."""


@dataclass(frozen=True)
class Place:
    """How far the last job of a run is, by the file of its rank 0."""

    job: int
    begin: int
    """The step that it began at."""
    time: float
    """When it did, as `time.time` counts."""
    step: int | None
    """The step that it was last handed a batch of, if any."""


def last_place(run_dir: Path) -> Place | None:
    """Return how far the last job is that has begun, without reading all of its file; None if there is none."""
    files = {_parsed_name(path)[0]: path for path in _files(run_dir) if _parsed_name(path)[1] == 0}
    for job in sorted(files, reverse=True):
        with files[job].open("rb") as file:
            first = file.readline()
            file.seek(max(files[job].stat().st_size - _TAIL_BYTES, 0))
            *lines, _ = file.read().split(b"\n")
        if first.endswith(b"\n"):
            begin, last = json.loads(first), json.loads(lines[-1])
            return Place(job, begin["begin"], begin["time"], last.get("step"))
    return None


def read_draws(run_dir: Path) -> list[Stretch]:
    """Return what the jobs of a run trained on, in the order in which they did.

    `DataError` where a file is damaged or two ranks have taken down the same draw. The last line of a file may have
    been cut off by a kill; its batch was not trained on.
    """
    jobs: dict[int, list[Path]] = {}
    for path in sorted(_files(run_dir)):
        jobs.setdefault(_parsed_name(path)[0], []).append(path)
    if not jobs:
        raise DataError(f"{run_dir / FOLDER} holds no draw log: train with --tracking.draws")
    return [stretch for job in sorted(jobs) for stretch in _joined(job, jobs[job])]


def effective(stretches: Sequence[Stretch]) -> dict[int, Clips]:
    """Return what the weights at the end are made of: of each step its last execution."""
    return {step: clips for stretch in stretches for step, clips in stretch.steps.items()}


def problem(stretches: Sequence[Stretch], *, steps: int) -> str:
    """Say what is first wrong with the draws of a run of so many steps; "" if nothing is.

    Right is: every step is there with all its draws; a job begins where, or before where, those before it ended; and
    whatever was trained on again was the same again.
    """
    seen: dict[int, Clips] = {}
    for stretch in stretches:
        if stretch.begin > 0 and stretch.begin - 1 not in seen:
            return f"job {stretch.job} began at step {stretch.begin}, and no job had trained step {stretch.begin - 1}"
        for step, clips in stretch.steps.items():
            before = seen.setdefault(step, clips)
            both = (before != MISSING) & (clips != MISSING)
            if not np.array_equal(before[both], clips[both]):
                return f"job {stretch.job} {_of_draw(step, before, clips, both)} that it had in a job before"
            seen[step] = clips
    for step in range(steps):
        if step not in seen:
            return f"step {step} is missing"
        if (missing := np.flatnonzero(seen[step] == MISSING)).size:
            draw = step * len(seen[step]) + int(missing[0])
            return f"draw {draw} of step {step} is missing, and {missing.size - 1} more of that step"
    beyond = [step for step in seen if step >= steps]
    return f"step {beyond[0]} was trained, behind the end of {steps} steps" if beyond else ""


def difference(ours: Sequence[Stretch], theirs: Sequence[Stretch]) -> str:
    """Say where two runs first trained on different clips; "" if nowhere, on however many ranks each of them ran."""
    a, b = effective(ours), effective(theirs)
    for step in sorted(a.keys() | b.keys()):
        if step not in a or step not in b:
            return f"step {step} is in one of the runs only"
        if a[step].shape != b[step].shape:
            return f"step {step} has {len(a[step])} draws in one run and {len(b[step])} in the other"
        if not np.array_equal(a[step], b[step]):
            return f"the run {_of_draw(step, b[step], a[step], np.ones(len(a[step]), bool))} of the other run"
    return ""


def _of_draw(step: int, expected: Clips, found: Clips, where: NDArray[np.bool_]) -> str:
    row = int(np.flatnonzero((expected != found) & where)[0])
    return f"trained at draw {step * len(found) + row} of step {step} on clip {found[row]}, not on clip {expected[row]}"


def _joined(job: int, paths: Sequence[Path]) -> list[Stretch]:
    """Join the files of the ranks of a job; all ranks begin, and go back, together."""
    stretches: list[Stretch] = []
    for path in paths:
        number, batch = -1, 0
        for record in _records(path):
            if "begin" in record:
                number, batch = number + 1, record["global_batch"]
                if number == len(stretches):
                    stretches.append(Stretch(job, record["begin"], record["world"], {}))
                if record["begin"] != stretches[number].begin:
                    raise DataError(f"{path}: the ranks of job {job} began at different steps")
                continue
            step, clips = record["step"], np.asarray(record["clips"], np.int32)
            rows = stretches[number].steps.setdefault(step, np.full(batch, MISSING, np.int32))
            first = record["first_draw"] - step * batch
            place = slice(first, first + len(clips))
            if first < 0 or rows[place].shape != clips.shape or (rows[place] != MISSING).any():
                raise DataError(
                    f"{path}: draw {record['first_draw']} does not belong to step {step}, or is there twice"
                )
            rows[place] = clips
    return stretches


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    try:
        records = [json.loads(line) for line in lines[:-1]]  # behind the last newline is nothing, or half a record
    except ValueError:
        raise DataError(f"{path} is damaged: a line is no record") from None
    if records and "begin" not in records[0]:
        raise DataError(f"{path} is damaged: it does not say where the job began")
    return records


def _files(run_dir: Path) -> list[Path]:
    return [path for path in (run_dir / FOLDER).glob("job-*.jsonl") if _NAME.fullmatch(path.name)]


_NAME = re.compile(r"job-(\d+)-rank-(\d+)-of-(\d+)\.jsonl")


def _parsed_name(path: Path) -> tuple[int, ...]:
    found = _NAME.fullmatch(path.name)
    assert found, "the name of a draw log"
    return tuple(map(int, found.groups()))


def _on_host(column: Any) -> NDArray[Any]:
    return column.cpu().numpy() if isinstance(column, Tensor) else np.asarray(column)
