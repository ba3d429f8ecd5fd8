"""A trained model that takes recordings as they come."""

import math
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.inference.prediction import Prediction, Window
from kws_dist.inference.sliding import batches, windows
from kws_dist.recording import ClipPolicy, Samples, check_rate, fit, pcm_blocks, pcm_of
from kws_dist.training.rebuild import Rebuilt, rebuild

Wave = NDArray[np.generic] | Tensor
"""int16, or float in [-1, 1]: `(samples,)` or `(channels, samples)`, of which the mean is heard."""

_BATCH = 64
_PIECE_S = 10.0
_HOP_S = 0.25


def load(run: str | PathLike[str], device: str | torch.device | None = None) -> "Predictor":
    """Load the best model of a run folder, or that of a checkpoint folder; by default onto the GPU, where there is one.

    Raises `UsageError` if there is no trained model or no such device, `DataError` if the checkpoint is damaged.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {device}: there is no such device here; cpu always is") from error
    if not Path(run).is_dir():
        raise UsageError(f"--run_dir {run}: there is no such folder; name that of a run")
    return Predictor(rebuild(Path(run)), place)


class Predictor:
    """Says which word a recording holds, hearing it just as evaluation heard the clips of the shards.

    Its arithmetic is float32 on every device, so it agrees with `launch/evaluate.py --precision fp32`; a run that was
    trained and tested in bf16 or fp16 (`precision` in its result) may say another word of a clip where two are almost
    equally likely. Raises `UsageError` for a wave that has no samples, holds what is no
    number, or has another type or shape than `Wave`.
    """

    def __init__(self, trained: Rebuilt, device: torch.device) -> None:
        data = trained.config.data
        self.words, self.device = trained.words, device
        self.sample_rate_hz: int = trained.state["sample_rate_hz"]
        """At which the model hears; other rates are resampled."""
        self.clip_samples = round(data.clip_seconds * self.sample_rate_hz)
        self.model = trained.model.to(device).eval()
        self.front_end = trained.front_end.to(device).eval()
        self._policy = ClipPolicy(clip_samples=self.clip_samples, pad=data.pad, long=data.long)

    @property
    def clip_seconds(self) -> float:
        """How much the model hears at a time."""
        return self.clip_samples / self.sample_rate_hz

    def predict(self, wave: Wave, sample_rate_hz: int) -> Prediction:
        """Say which word a clip holds. A short one is padded as in training.

        One longer than a clip is cropped if the run was trained so (`--data.long`), else refused (`UsageError`).
        """
        return self.predict_batch([wave], sample_rate_hz)[0]

    def predict_batch(self, waves: Sequence[Wave], sample_rate_hz: int) -> list[Prediction]:
        """Say of each of many clips, which need not be equally long, which word it holds."""
        rows = (self._row(wave, sample_rate_hz) for wave in waves)
        return [prediction for batch in batches(rows, _BATCH) for prediction in self._answer(batch)]

    def predict_long(self, wave: Wave, sample_rate_hz: int, hop_s: float | None = None) -> list[Window]:
        """Say what each window of a longer recording holds: `(start_s, end_s, Prediction)` of clips `hop_s` apart.

        The default is 0.25 s, or as long as the clips if these are shorter. The last one ends where the recording does.
        No window is smoothed by, or knows of, the others.
        """
        samples = _array(wave)
        if samples.ndim not in (1, 2) or samples.size == 0:
            pcm_of(samples, self.sample_rate_hz, self.sample_rate_hz)  # which says what is wrong with it
        piece = round(_PIECE_S * _whole_hz(sample_rate_hz))
        pieces = (samples[..., first : first + piece] for first in range(0, samples.shape[-1], piece))
        return list(self.predict_blocks(pieces, sample_rate_hz, hop_s))

    def predict_blocks(
        self, blocks: Iterable[Wave], sample_rate_hz: int, hop_s: float | None = None
    ) -> Iterator[Window]:
        """Do as `predict_long` for a recording that comes in blocks of any length, in memory that does not grow."""
        hop_samples = self.hop_samples(hop_s)
        pcm = pcm_blocks(map(_array, blocks), _whole_hz(sample_rate_hz), self.sample_rate_hz)
        places = windows(pcm, clip_samples=self.clip_samples, hop_samples=hop_samples)
        for batch in batches(places, _BATCH):
            predictions = self._answer([self._fitted(samples) for _, samples in batch])
            for (first, samples), prediction in zip(batch, predictions, strict=True):
                yield Window(first / self.sample_rate_hz, (first + len(samples)) / self.sample_rate_hz, prediction)

    def hop_samples(self, hop_s: float | None) -> int:
        """Return how many samples windows `hop_s` apart are; `UsageError` if they would leave gaps or stand still."""
        if hop_s is None:
            hop_s = min(_HOP_S, self.clip_seconds)
        if not (math.isfinite(hop_s) and 1 / self.sample_rate_hz <= hop_s <= self.clip_seconds):
            raise UsageError(f"--hop_s {hop_s:g}: above 0 and at most the {self.clip_seconds:g} s that the model hears")
        return round(hop_s * self.sample_rate_hz)

    def _row(self, wave: Wave, sample_rate_hz: int) -> Samples:
        """Return what the model hears of a clip, `(clip_samples,)` int16."""
        array, rate_hz = _array(wave), _whole_hz(sample_rate_hz)
        # As the shard maker counts, a resampled clip that has a sample more for rounding is no longer than another.
        seconds = array.shape[-1] / rate_hz if array.ndim else 0.0
        is_long = round(seconds * self.sample_rate_hz) > self.clip_samples
        if is_long and self._policy.long == "error":
            raise UsageError(
                f"the wave lasts {seconds:.2f} s, and the model hears {self.clip_seconds:g} s: cut it, or ask"
                " predict_long"
            )
        samples = pcm_of(array, rate_hz, self.sample_rate_hz)
        return self._fitted(samples if is_long else samples[: self.clip_samples])

    def _fitted(self, samples: Samples) -> Samples:
        row = np.empty(self.clip_samples, np.int16)
        fit(row, samples, self._policy)
        return row

    @torch.inference_mode()
    def _answer(self, rows: Sequence[Samples]) -> list[Prediction]:
        pcm = torch.from_numpy(np.stack(rows)).to(self.device)
        nothing = torch.zeros(len(rows), dtype=torch.int64, device=self.device)  # no draws, no labels: no augmentation
        logits = self.model(self.front_end(pcm, nothing, nothing))
        return [Prediction(self.words, scores) for scores in logits.float().softmax(1).cpu().numpy()]


def _array(wave: Wave) -> NDArray[np.generic]:
    if isinstance(wave, Tensor):
        wave = wave.detach().cpu()
        return (wave.float() if wave.is_floating_point() else wave).numpy()
    return np.asarray(wave)


def _whole_hz(sample_rate_hz: int) -> int:
    try:
        is_whole = sample_rate_hz > 0 and float(sample_rate_hz).is_integer()
    except (TypeError, ValueError):  # a word, None, several
        is_whole = False
    if not is_whole:
        raise UsageError(f"a sampling rate is a whole number of Hz above 0, not {sample_rate_hz!r}")
    return check_rate(int(sample_rate_hz))
