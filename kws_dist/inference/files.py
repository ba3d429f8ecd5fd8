"""Recordings in files: what a model hears in each, however it is stored and however long it is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from kws_dist.errors import ClipError
from kws_dist.inference.prediction import Window, merged
from kws_dist.inference.predictor import Predictor
from kws_dist.inference.sliding import batches
from kws_dist.recording import SAMPLE_RATE_HZ, Samples, blocks_of, length_s, read

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is heard in one file."""

    path: Path
    seconds: float = 0.0
    """How long it lasts."""
    windows: tuple[Window, ...] = ()
    """One for a clip; for a longer file those of its stretches, neighbours with the same word joined."""
    is_long: bool = False
    """Whether it is longer than what the model hears at a time."""
    fault: str = ""
    """Why it cannot be read, in a sentence that names it; empty if it can."""

    def surer_than(self, min_score: float) -> Self:
        """Return the same, of a long file without the stretches whose word is less probable."""
        if not self.is_long:
            return self
        return replace(self, windows=tuple(one for one in self.windows if one.prediction.score >= min_score))


def listen(predictor: Predictor, paths: Iterable[Path], *, hop_s: float | None) -> Iterator[Heard]:
    """Yield what is heard in each file, in their order; a file that cannot be read keeps none from being heard."""
    for some in batches(paths, _BATCH):
        opened = [_opened(path, predictor) for path in some]
        clips = [samples for _, samples in opened if samples is not None]
        predictions = iter(predictor.predict_batch(clips, SAMPLE_RATE_HZ))
        for heard, samples in opened:
            if samples is not None:
                window = Window(0.0, heard.seconds, next(predictions))
                yield Heard(path=heard.path, seconds=heard.seconds, windows=(window,))
            else:
                yield _long(heard.path, heard.seconds, predictor, hop_s) if heard.is_long else heard


def _opened(path: Path, predictor: Predictor) -> tuple[Heard, Samples | None]:
    """Return what is known of a file before the model hears it, and its samples if they are no more than a clip."""
    try:
        seconds = length_s(path)
        if round(seconds * predictor.sample_rate_hz) > predictor.clip_samples:
            return Heard(path=path, seconds=seconds, is_long=True), None
        most_samples = round(predictor.clip_seconds * SAMPLE_RATE_HZ)  # resampling rounds the length up
        samples = read(path, seconds)[:most_samples]
    except ClipError as error:
        return Heard(path=path, fault=str(error)), None
    return Heard(path=path, seconds=seconds), samples


def _long(path: Path, seconds: float, predictor: Predictor, hop_s: float | None) -> Heard:
    try:
        blocks, rate_hz = blocks_of(path, seconds)
        windows = tuple(merged(predictor.predict_blocks(blocks, rate_hz, hop_s)))
    except ClipError as error:
        return Heard(path=path, fault=str(error))
    return Heard(path=path, seconds=seconds, windows=windows, is_long=True)
