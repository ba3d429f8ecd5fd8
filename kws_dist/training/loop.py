"""The training loop, and what it does between steps: log, validate, save, go back, stop."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from kws_dist.config import TrainConfig
from kws_dist.data.sampler import Sampler
from kws_dist.data.workers import DeviceWorker
from kws_dist.display import Display
from kws_dist.errors import TrainingError
from kws_dist.evaluation.evaluate import Evaluation, EvaluationStopped, Evaluator
from kws_dist.tracking import Tracker
from kws_dist.training.gauges import Gauges, record
from kws_dist.training.graphed import GraphedStep
from kws_dist.training.progress import LAST, Progress
from kws_dist.training.schedule import learning_rate
from kws_dist.training.step import TrainStep
from kws_dist.training.timetable import Timetable


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with. Every rank has its own; only rank 0's tracker and display do anything."""

    step: TrainStep | GraphedStep
    batches: Callable[[int, int], Generator[Any, None, None]]
    """Yields what `step` takes, for the steps from one to another."""
    worker: DeviceWorker
    sampler: Sampler
    words: tuple[str, ...]
    device: torch.device
    alone: bool
    """There are no other ranks to agree with."""
    validate: Evaluator | None
    test: Evaluator | None
    """Reports after each validation how the test split does; nothing depends on it."""
    evaluated_model: Callable[[], nn.Module]
    """The model whose accuracy counts, the same on all ranks; all ranks must call it together."""
    raw_model: Callable[[], nn.Module] | None
    """The model as the optimizer left it, where the one that counts is an average; all ranks call it together."""
    own_model: Callable[[], nn.Module]
    """The same as it is on this rank, which may have seen other clips, and stays as it is."""
    save: Callable[[Progress, bool, bool], None]
    """Save a checkpoint, also as the best one if told so, and whether that was due; all ranks must call it together."""
    go_back: Callable[[Progress], None]
    """Take up the newest checkpoint again, at a lower rate; all ranks must call it together."""
    first_keys: Callable[[int], list[str]]
    """The clips that a step begins with, for people to look at."""
    stop_asked: Callable[[], bool]
    """Whether this rank was."""
    stops: Callable[[], bool]
    """Whether any rank was asked to stop; all ranks must call it together."""
    after_step: Callable[[], None]
    tracker: Tracker
    display: Display


class Loop:
    """Trains from `progress.step` to the end, or until asked to stop."""

    def __init__(self, parts: Parts, train: TrainConfig, progress: Progress) -> None:
        self.parts, self.train, self.progress = parts, train, progress
        self.timetable = Timetable(train, parts.sampler.steps_per_epoch)
        self._stopping, self._out_of_time = False, progress.out_of_time(train.max_minutes)
        self._batches: Generator[Any, None, None] | None = None
        self._gauges = Gauges(parts.worker, parts.device)

    def run(self) -> bool:
        """Train; return whether the end was reached. All ranks take the same way through here."""
        try:
            self._begin()
            while not (self.at_end or self._stopping):
                self.take_step()
                step = self.progress.step
                if self.timetable.logs(step) or self._stops_at_once():
                    self.log()
                if self.progress.step < step:  # it went back to a checkpoint
                    continue
                if self.timetable.validates(step) or self._out_of_time:
                    self.validate()
                elif self.timetable.saves(step) or self._stopping:
                    self._save(is_best=False)
        finally:
            self.close()
        return self.at_end and not self._stopping

    @property
    def at_end(self) -> bool:
        """Whether nothing is left to train."""
        gives_up = self.progress.out_of_patience(self.timetable.patience_steps)
        return gives_up or self._out_of_time or self.progress.step >= self.timetable.total_steps

    def take_step(self) -> None:
        """Train on the next global batch; nothing here waits for the device."""
        step, progress = self.progress.step, self.progress
        if self._batches is None:  # one row of batches for the whole run: an epoch's first are ready when it begins
            self._batches = self.parts.batches(step, self.timetable.total_steps)
        real_rows = self.parts.sampler.real_rows(step)
        self.parts.step(self._batches, step=step, real_rows=real_rows, rate=self.rate(step))
        progress.step, progress.clips = step + 1, progress.clips + real_rows
        self._gauges.clips += real_rows
        self.parts.after_step()

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; steps known to have been skipped do not move the schedule."""
        moved = step - self.progress.skipped_steps
        shape = learning_rate(moved, self.train, steps_per_epoch=self.timetable.steps_per_epoch)
        return self.progress.rate_factor * shape

    def log(self) -> None:
        """Read the figures back from the device and show them; here the ranks agree on whether to stop."""
        progress, rate = self.progress, self.rate(self.progress.step - 1)
        out_of_time = progress.out_of_time(self.train.max_minutes)
        figures = self.parts.step.read(stop=self.parts.stop_asked(), out_of_time=out_of_time)
        self._stopping, self._out_of_time = figures.stop, figures.out_of_time
        interval = self._gauges.take(figures.loss)
        progress.train_s += interval.time_s
        progress.skipped_steps += figures.skipped_steps
        reading = self._gauges.reading(figures, interval, rate=rate, skipped_steps=progress.skipped_steps)
        self._track(record(reading))
        self.parts.display.update(progress.step, reading)
        if figures.bad_steps_in_row >= self.train.max_bad_steps:
            self._go_back(figures.bad_steps_in_row, rate)

    def validate(self) -> None:
        """Evaluate on the validation split, save, and note if this is the best so far.

        If a stop is asked for meanwhile, this validation is owed: the next job begins with it.
        """
        parts, progress = self.parts, self.progress
        parts.display.busy("validating")
        try:
            val, raw, test = self._evaluated()
        except EvaluationStopped:
            self._stopping = True
            self._save(is_best=False)
            return
        is_best = self._note(val)
        self._track(_record(val=val, val_raw=raw, test=test))
        self._save(is_best)
        train_loss, time_s = self._gauges.take_stretch()
        parts.display.validated(
            progress.step,
            train_loss=train_loss,
            val_loss=val.loss if val else None,
            val_accuracy=val.accuracy if val else None,
            raw_accuracy=raw.accuracy if raw else None,
            test_accuracy=test.accuracy if test else None,
            is_best=is_best,
            learning_rate=self.rate(progress.step - 1),
            time_s=time_s,
        )

    def close(self) -> None:
        """Stop making batches ahead."""
        if self._batches:
            self._batches.close()
            self._batches = None

    def _begin(self) -> None:
        """Do what an earlier job was kept from; then try out validation and saving, so that mistakes show at once."""
        if self._owes_validation():
            self.validate()
        if self.at_end or self._stopping:
            return
        self.parts.display.busy("trying out validation")
        try:
            if self.parts.validate:
                self.parts.validate(self.parts.own_model(), steps=1)
        except EvaluationStopped:
            self._stopping = True
        if self.progress.step == 0:
            self._save(is_best=False)
        self._stopping = self._stopping or self.parts.stops()
        self.parts.display.busy("training")
        self._gauges.restart()

    def _owes_validation(self) -> bool:
        """Whether the checkpoint was saved before the validation that was due, or what was best is lost."""
        progress = self.progress
        is_due = progress.step > 0 and (self.timetable.validates(progress.step) or self._out_of_time)
        return (is_due and progress.validated_step < progress.step) or progress.validated_step > 0 == progress.best_step

    def _evaluated(self) -> tuple[Evaluation | None, Evaluation | None, Evaluation | None]:
        """Return how the model does that counts, how the one under its average does, and how on the test split."""
        parts = self.parts
        with record_function("kws/validation"):
            model = parts.evaluated_model()
            val = parts.validate(model) if parts.validate else None
            raw = parts.validate(parts.raw_model()) if parts.validate and parts.raw_model else None
            return val, raw, parts.test(model) if parts.test else None

    def _save(self, is_best: bool) -> None:
        with record_function("kws/saving"):
            self.parts.save(self.progress, is_best, self.timetable.saves(self.progress.step))
        self._gauges.restart()  # the time of validation and saving is not training time

    def _note(self, val: Evaluation | None) -> bool:
        """Take a validation down; return whether it is the best. Without any, or by `LAST`, the newest is."""
        progress, by = self.progress, self.train.best_by
        progress.validated_step = progress.step
        if val is None or by == LAST:
            progress.best_step = progress.step
            return True
        figures = val.figures(self.parts.words)
        is_best = progress.is_better(figures, by)
        if is_best:
            progress.note_best(figures, by)
        return is_best

    def _stops_at_once(self) -> bool:
        """Whether a stop was asked for and nobody has to be asked; several ranks agree when figures are read."""
        return self.parts.alone and self.parts.stop_asked()

    def _go_back(self, bad_steps: int, rate: float) -> None:
        """Take up the newest checkpoint at a lower rate, once; then, or if that is not wanted, give up."""
        self.close()  # nobody else draws meanwhile
        last = self.progress.step - 1
        steps = f"steps {last - bad_steps + 1} to {last}" if bad_steps > 1 else f"step {last}"
        happened = f"{steps} had a loss or gradient that is not finite, at learning rate {rate:.3g}"
        if self.progress.rollbacks or not self.train.rollback_factor:
            raise TrainingError(
                f"{happened}; the last batch began with {', '.join(self.parts.first_keys(last))}: lower"
                " --train.learning_rate, set --train.clip_norm, or look at those clips; the last checkpoint is kept"
            )
        self.parts.go_back(self.progress)
        self._out_of_time = self.progress.out_of_time(self.train.max_minutes)
        self.parts.step.forgive()
        self._gauges.restart()
        self._gauges.take_stretch()  # what it comes from is void
        self.parts.display.warn(
            f"{happened}: back to step {self.progress.step}, and on at {self.train.rollback_factor:g} of the rate"
        )

    def _track(self, figures: dict[str, Any]) -> None:
        place = {"step": self.progress.step, "clips_seen": self.progress.clips, "time_s": self.progress.train_s}
        if figures:
            self.parts.tracker.log({**place, **figures})


def _record(**evaluations: Evaluation | None) -> dict[str, float]:
    """Return the figures of the splits that were evaluated, as they are tracked."""
    return {
        f"{split}/{name}": getattr(result, name)
        for split, result in evaluations.items()
        if result
        for name in ("loss", "accuracy")
    }
