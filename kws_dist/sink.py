"""What takes the records of a run, and what there is to take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Record = dict[str, Any]
"""A flat dict of scalars under their full names: `step`, `clips_seen`, `time_s`, `train/loss`, `val/accuracy`."""


@dataclass(frozen=True, kw_only=True)
class HeardClip:
    """A clip to listen to, and what a model made of it."""

    key: str
    word: str
    """What its label says."""
    heard: str
    """The most probable word."""
    probability: float
    """Of that word."""
    loss: float
    """Cross-entropy in nats."""
    path: Path
    """WAV file."""


class Sink(Protocol):
    """One place that records go to. Whoever derives from it ignores what it does not take."""

    def log(self, record: Record) -> None:
        """Take one record."""

    def log_image(self, name: str, path: Path) -> None:
        """Take a picture that was written to `path`."""

    def log_confusion(self, name: str, words: Sequence[str], matrix: NDArray[np.integer]) -> None:
        """Take counts of answers `(C, C)`: rows are the true words, columns the predicted ones."""

    def log_clips(self, name: str, clips: Sequence[HeardClip]) -> None:
        """Take clips in the order in which they are to be shown."""

    def log_checkpoint(self, path: Path, aliases: Sequence[str]) -> None:
        """Take a checkpoint, which may be gone or replaced as soon as this returns."""

    def rewind(self, step: int) -> None:
        """Hear that the run is back at `step`: what came after it is void, and will come again."""

    def finish(self, exit_code: int, summary: Record) -> None:
        """End the run: 0 is success; `summary` holds its final numbers."""
