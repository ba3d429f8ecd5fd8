"""TensorBoard's event files, as a mirror of `metrics.jsonl`: `tensorboard --logdir RUN/tensorboard`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from matplotlib.image import imread
from numpy.typing import NDArray

from kws_dist.errors import UsageError
from kws_dist.sink import HeardClip, Record, Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Sink):
    """Writes event files below `folder`; what is there of steps beyond `start_step` is no longer shown."""

    def __init__(self, folder: Path, *, config: dict[str, Any], start_step: int) -> None:
        """`config`: the settings of the run, to be shown. `UsageError` where the package is missing."""
        self._folder, self._step = folder, start_step
        self._writer = _writer(folder, start_step)
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=1, default=str)}\n```", start_step)

    def log(self, record: Record) -> None:
        """Add every number of the record at its step."""
        self._step = record["step"]
        for name, value in record.items():
            value = value.item() if hasattr(value, "item") else value
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, self._step)

    def log_image(self, name: str, path: Path) -> None:
        """Add a PNG at the step of the last record."""
        self._writer.add_image(name, imread(path)[..., :3], self._step, dataformats="HWC")

    def log_confusion(self, name: str, words: Sequence[str], matrix: NDArray[np.integer]) -> None:
        """Add the counts of answers as a table, one row for each true word."""
        rows = ([word, *counts] for word, counts in zip(words, matrix.tolist(), strict=True))
        self._writer.add_text(name, _table(["true word", *words], rows), self._step)

    def log_clips(self, name: str, clips: Sequence[HeardClip]) -> None:
        """Add the clips as a table and, one by one, as sounds."""
        rows = ([c.key, c.word, c.heard, f"{c.probability:.3f}", f"{c.loss:.3f}"] for c in clips)
        self._writer.add_text(name, _table(["key", "word", "heard", "probability", "loss"], rows), self._step)
        for place, clip in enumerate(clips, start=1):
            wave, rate_hz = soundfile.read(clip.path, dtype="float32")
            title = f"{name}/{place:03d} {clip.word}, heard as {clip.heard}"
            self._writer.add_audio(title, wave, self._step, sample_rate=rate_hz)

    def rewind(self, step: int) -> None:
        """Begin another file, which says that what came after `step` is void."""
        self._writer.close()
        self._writer, self._step = _writer(self._folder, step), step

    def finish(self, exit_code: int, summary: Record) -> None:  # noqa: ARG002 -- the protocol of every sink
        """Add the final numbers under `final/`, and close the files."""
        for name, value in summary.items():
            self._writer.add_scalar(f"final/{name}", value, self._step)
        self._writer.close()


def _writer(folder: Path, last_step: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"--tracking.tensorboard needs the package tensorboard, which does not load ({error}): pip install"
            " tensorboard"
        ) from None
    return SummaryWriter(folder, purge_step=last_step + 1)


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
