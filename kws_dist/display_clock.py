"""How long a training still takes."""

import statistics
from collections import deque

from kws_dist.display_picture import duration

RECENT_UPDATES = 50
"""How many updates the estimate of the time left looks back on."""


class Clock:
    """Estimates the time left: the median step forgives a slow disk, and validations are counted on top."""

    def __init__(self, start_step: int) -> None:
        self._step = start_step
        self._ticked_s: float | None = None
        self._step_times_s: deque[float] = deque(maxlen=RECENT_UPDATES)
        self._validated_step, self._validation_s_per_step = start_step, 0.0

    def tick(self, step: int, now_s: float) -> None:
        """Take down that `step` steps have been taken."""
        if self._ticked_s is not None and step > self._step:
            self._step_times_s.append((now_s - self._ticked_s) / (step - self._step))
        self._step, self._ticked_s = step, now_s

    def validated(self, step: int, now_s: float) -> None:
        """Take down that a validation, which began after the last tick, is over."""
        if self._ticked_s is not None and step > self._validated_step:
            self._validation_s_per_step = (now_s - self._ticked_s) / (step - self._validated_step)
        self._validated_step, self._ticked_s = step, now_s

    def left(self, total_steps: int) -> str:
        """Return the time to the end of the run in words, `?` before the second tick."""
        if not self._step_times_s:
            return "?"
        step_s = statistics.median(self._step_times_s) + self._validation_s_per_step
        return duration(step_s * (total_steps - self._step))
