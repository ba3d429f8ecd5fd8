"""Where numbers go: `metrics.jsonl`, which is the truth, and Weights & Biases (W&B) and TensorBoard, which mirror it.

Records keep the names of their scalars everywhere. Only rank 0 makes a `Tracker`.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kws_dist.config import TrackingConfig
from kws_dist.errors import UsageError
from kws_dist.metrics_file import MetricsFile, read_metrics
from kws_dist.sink import HeardClip, Record, Sink
from kws_dist.tensorboard_sink import TensorBoard
from kws_dist.wandb_sink import Wandb, wandb_id

__all__ = [
    "HeardClip",
    "MetricsFile",
    "Record",
    "Sink",
    "TensorBoard",
    "Tracker",
    "Wandb",
    "check_tracking",
    "read_metrics",
    "sinks_of",
    "wandb_id",
]

_LONGEST_TAG, _LONGEST_PROJECT, _NOT_IN_PROJECT = 64, 128, "/\\#?%:"  # as W&B would refuse them, once it is started


class Tracker:
    """All sinks as one; leaving the `with` block finishes them, as failed when an exception is on its way.

    A sink whose files cannot be written is given up, and `warn` told so: training goes on without it.
    """

    def __init__(self, sinks: Sequence[Sink], warn: Callable[[str], None] = warnings.warn) -> None:
        self._sinks, self._warn = list(sinks), warn
        self._finished = False

    def log(self, record: Record) -> None:
        """Give every sink the record."""
        self._each(lambda sink: sink.log(record))

    def log_image(self, name: str, path: Path) -> None:
        """Give every sink the picture."""
        self._each(lambda sink: sink.log_image(name, path))

    def log_confusion(self, name: str, words: Sequence[str], matrix: NDArray[np.integer]) -> None:
        """Give every sink the counts of answers `(C, C)`, one row for each true word."""
        self._each(lambda sink: sink.log_confusion(name, words, matrix))

    def log_clips(self, name: str, clips: Sequence[HeardClip]) -> None:
        """Give every sink the clips."""
        self._each(lambda sink: sink.log_clips(name, clips))

    def log_checkpoint(self, path: Path, aliases: Sequence[str]) -> None:
        """Give every sink the checkpoint, which may go or change afterwards."""
        self._each(lambda sink: sink.log_checkpoint(path, aliases))

    def rewind(self, step: int) -> None:
        """Tell every sink that what came after `step` is void, and will come again."""
        self._each(lambda sink: sink.rewind(step))

    def finish(self, exit_code: int, summary: Record) -> None:
        """Finish every sink; a second call does nothing."""
        if not self._finished:
            self._finished = True
            self._each(lambda sink: sink.finish(exit_code, summary))

    def _each(self, do: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                do(sink)
            except OSError as error:
                self._sinks.remove(sink)
                self._warn(f"{type(sink).__name__} is given up, because its files cannot be written ({error})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(exit_code=0 if error is None else 1, summary={})


def sinks_of(
    tracking: TrackingConfig, run_dir: Path, config: dict[str, Any], warn: Callable[[str], None], start_step: int
) -> list[Sink]:
    """Open what the settings ask for, in the folder of a run that goes on after `start_step`.

    `config`: the settings of the run, to be shown; `warn` is told, in a sentence, what a mirror cannot do.
    """
    metrics = MetricsFile(run_dir / "metrics.jsonl", warn)
    metrics.rewind(start_step)
    sinks: list[Sink] = [metrics]
    if tracking.tensorboard:
        sinks.append(TensorBoard(run_dir / "tensorboard", config=config, start_step=start_step))
    if tracking.wandb != "disabled":
        sinks.append(Wandb(run_dir, tracking, config=config, warn=warn, start_step=start_step))
    return sinks


def check_tracking(tracking: TrackingConfig) -> None:
    """Raise `UsageError` for settings that no sink could follow; asks nobody and starts nothing."""
    if tracking.tensorboard and find_spec("tensorboard") is None:
        raise UsageError(
            "--tracking.tensorboard needs the package tensorboard, which is not installed: pip install tensorboard"
        )
    if tracking.worst_clips < 0:
        raise UsageError(f"--tracking.worst_clips {tracking.worst_clips} should be 0, for none, or more")
    for tag in tracking.tags:
        if not 1 <= len(tag) <= _LONGEST_TAG:
            raise UsageError(f"--tracking.tags {tag!r} should have 1 to {_LONGEST_TAG} letters, as W&B demands")
    project = tracking.project
    if not 1 <= len(project) <= _LONGEST_PROJECT or set(project) & set(_NOT_IN_PROJECT):
        raise UsageError(
            f"--tracking.project {project!r} should have 1 to {_LONGEST_PROJECT} letters and none of"
            f" {' '.join(_NOT_IN_PROJECT)}, as W&B demands"
        )
