"""A profile of some training steps: a trace to look into, and where the time went."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import profile, schedule

from kws_dist.training.trace import Summary, summarize

_SKIPPED_STEPS = 5
"""The first steps of a job are slower than the others: memory is taken, kernels are chosen and compiled."""
_WARM_UP_STEPS = 2
"""Then so many for the profiler itself."""


class Profiler:
    """Profiles `steps` training steps, once the first ones are over, then reports and does nothing more.

    Use it as a context manager and call `step` after every optimizer step. If the run ends earlier, it reports what it
    has. With `steps` 0 it is off.
    """

    def __init__(self, steps: int, folder: Path, say: Callable[[str], None], *, first_step: int = 0) -> None:
        """`folder` is where the trace goes; `say` shows text; `first_step`: steps taken before this job."""
        self._steps, self._folder, self._say, self._first_step = steps, folder, say, first_step
        self._taken = 0
        self._begin = _SKIPPED_STEPS + _WARM_UP_STEPS
        self._trace: profile | None = None

    def __enter__(self) -> Self:
        if self._steps:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes into the middle of the screen
            self._trace = profile(
                schedule=schedule(
                    skip_first=_SKIPPED_STEPS, wait=0, warmup=_WARM_UP_STEPS, active=self._steps, repeat=1
                ),
                experimental_config=_ExperimentalConfig(profile_all_threads=True),  # one of them makes batches ahead
            )
            self._trace.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(report=kind is None)

    def step(self) -> None:
        """Note that an optimizer step was taken."""
        if self._trace is None:
            return
        self._taken += 1
        at_end = self._taken == self._begin + self._steps
        if torch.cuda.is_available() and (at_end or self._taken == self._begin):
            torch.cuda.synchronize()  # the host may be many steps ahead, and their work is not to be cut off
        self._trace.step()
        if at_end:
            self._finish(report=True)

    def _finish(self, *, report: bool) -> None:
        if self._trace is None:
            return
        done, self._trace = self._trace, None
        done.stop()
        if report and self._taken <= self._begin:
            self._say(f"no profile: the run ended within the first {self._begin} steps, which are not profiled")
        elif report:
            self._report(done)

    def _report(self, done: profile) -> None:
        steps = self._taken - self._begin
        first = self._first_step + self._begin + 1
        path = self._folder / f"steps-{first}-to-{first + steps - 1}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            done.export_chrome_trace(str(path))
            with gzip.open(path) as file:
                summary = summarize(json.load(file)["traceEvents"], steps)
        except OSError as error:
            self._say(f"{path} cannot be written, so there is no profile: {error.strerror}; training goes on")
            return
        self._say(f"profile of steps {first} to {first + steps - 1}, {path}, for https://ui.perfetto.dev")
        self._say(table(summary))


def table(summary: Summary) -> str:
    """Return the parts and the slowest operations as text of at most 80 columns."""
    lines = [
        f"{summary.step_ms:.1f} ms a step, on average; times of the {'GPU' if summary.on_gpu else 'processor'}",
        f"{'part':40}  {'ms/step':>9}  {'share':>7}  {'beside *':>9}",
    ]
    for part in summary.parts:
        beside = f"{part.beside_ms:9.2f}" if part.beside_ms else ""
        name = "rest: device idle" if summary.on_gpu and part.name == "rest" else part.name
        lines.append(f"{name:40}  {part.time_ms:9.2f}  {100 * part.share:5.1f} %  {beside}".rstrip())
    lines.append("* more ms/step, in another thread or stream while other parts went on")
    lines.append(f"{'operation, by its own time':40}  {'ms/step':>9}  {'share':>7}  {'calls':>9}")
    for one in summary.operations:
        lines.append(f"{one.name[:40]:40}  {one.self_ms:9.2f}  {100 * one.share:5.1f} %  {one.calls:9.1f}")
    return "\n".join(lines)
