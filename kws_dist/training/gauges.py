"""Speed, waiting and memory between two readings, and the mean loss between two validations."""

import math
import time
from dataclasses import dataclass

import torch

from kws_dist import memory
from kws_dist.data.workers import DeviceWorker
from kws_dist.display import Reading
from kws_dist.training.step import StepFigures


@dataclass(frozen=True)
class Interval:
    """What went by between two readings; exact, because reading figures waits for the device."""

    time_s: float
    wait_s: float
    """Time in which the step waited for data."""
    clips: int
    memory_bytes: int
    """Peak of the interval, on the device."""


class Gauges:
    """Counts what goes by. Restarted after anything that is not training, so that it counts as none."""

    def __init__(self, worker: DeviceWorker, device: torch.device) -> None:
        self._worker, self._device = worker, device
        self.clips = 0
        """Clips since the last reading."""
        self._loss_sum, self._loss_clips = 0.0, 0
        self._stretch_started_s = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Begin an interval."""
        self.clips = 0
        self._started_s, self._waited_s = time.perf_counter(), self._worker.wait_s
        memory.reset_peak(self._device)

    def take(self, loss: float) -> Interval:
        """End an interval whose mean loss was `loss`, and begin the next."""
        time_s, wait_s = time.perf_counter() - self._started_s, self._worker.wait_s - self._waited_s
        interval = Interval(time_s, wait_s, self.clips, memory.peak_bytes(self._device))
        if math.isfinite(loss):
            self._loss_sum, self._loss_clips = self._loss_sum + loss * self.clips, self._loss_clips + self.clips
        self.restart()
        return interval

    def take_stretch(self) -> tuple[float, float]:
        """Return the mean loss, and the seconds, since this was last asked."""
        loss = self._loss_sum / self._loss_clips if self._loss_clips else math.nan
        time_s = time.perf_counter() - self._stretch_started_s
        self._loss_sum, self._loss_clips, self._stretch_started_s = 0.0, 0, time.perf_counter()
        return loss, time_s

    def reading(self, figures: StepFigures, interval: Interval, *, rate: float, skipped_steps: int) -> Reading:
        """Put together what a person watches."""
        return Reading(
            loss=figures.loss,
            accuracy=figures.accuracy,
            learning_rate=rate,
            gradient_norm=figures.gradient_norm,
            skipped_steps=skipped_steps,
            clips_per_s=interval.clips / interval.time_s,
            data_wait_share=interval.wait_s / interval.time_s,
            memory_bytes=interval.memory_bytes,
            memory_limit_bytes=memory.limit_bytes(self._device),
        )


def record(reading: Reading) -> dict[str, float | None]:
    """Return a reading as it is tracked."""
    return {
        "train/loss": reading.loss,
        "train/accuracy": reading.accuracy,
        "train/learning_rate": reading.learning_rate,
        "train/gradient_norm": reading.gradient_norm,
        "train/skipped_steps": reading.skipped_steps,
        "perf/clips_per_s": reading.clips_per_s,
        "perf/data_wait_share": reading.data_wait_share,
        "perf/peak_memory_bytes": reading.memory_bytes,
    }
