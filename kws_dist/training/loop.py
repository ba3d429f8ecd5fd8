"""The training loop, and what it does between steps: log, validate, save, stop."""

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import nn

from kws_dist.config import TrainConfig
from kws_dist.data.sampler import Sampler
from kws_dist.data.store import Store
from kws_dist.data.workers import Batch, DeviceWorker
from kws_dist.display import Display
from kws_dist.errors import TrainingError
from kws_dist.evaluation.evaluate import Evaluation, Evaluator
from kws_dist.tracking import Tracker
from kws_dist.training.schedule import learning_rate
from kws_dist.training.step import StepFigures, TrainStep


@dataclass
class Progress:
    """How far a run is; part of every checkpoint."""

    step: int = 0
    """Optimizer steps taken; with the seed and the data, it says all about the draws to come."""
    clips: int = 0
    """Clips trained on."""
    train_s: float = 0.0
    """Time spent in training steps, over all jobs of the run."""
    best_step: int = 0
    """Step of the best validation so far; 0 if there was none."""
    best_accuracy: float = 0.0
    best_loss: float = 0.0

    def is_better(self, evaluation: Evaluation) -> bool:
        """Return whether this is the best validation so far: by accuracy, and by loss where that ties."""
        best = (self.best_accuracy, -self.best_loss)
        return self.best_step == 0 or (evaluation.accuracy, -evaluation.loss) > best

    def out_of_patience(self, patience_steps: int) -> bool:
        """Return whether the best validation is that many steps ago; never, if that is 0."""
        return self.best_step > 0 and 0 < patience_steps <= self.step - self.best_step


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with. Every rank has its own; only rank 0's tracker and display do anything."""

    step: TrainStep
    worker: DeviceWorker
    sampler: Sampler
    store: Store
    validate: Evaluator | None
    test: Evaluator | None
    """Reports after each validation how the test split does; nothing depends on it."""
    evaluated_model: Callable[[], nn.Module]
    """The model whose accuracy counts, the same on all ranks; all ranks must call it together."""
    save: Callable[[Progress, bool], None]
    """Save a checkpoint, and also as the best one if told so; all ranks must call it together."""
    stop_asked: Callable[[], bool]
    tracker: Tracker
    display: Display


class Loop:
    """Trains from `progress.step` to the end, or until asked to stop."""

    def __init__(self, parts: Parts, config: TrainConfig, progress: Progress) -> None:
        self.parts, self.config, self.progress = parts, config, progress
        self.steps_per_epoch = parts.sampler.steps_per_epoch
        self.total_steps = config.epochs * self.steps_per_epoch
        self._stopping = False
        self._is_validated = self._is_validation_due()
        self._batches: Generator[Batch, None, None] | None = None
        self._epoch = _Mean()
        self._interval = _Interval(parts.worker)

    def run(self) -> bool:
        """Train; return whether the end was reached. All ranks take the same way through here."""
        try:
            while not self.at_end and not self._stopping:
                started_s = time.monotonic()
                self.train_until((self.progress.step // self.steps_per_epoch + 1) * self.steps_per_epoch)
                self._is_validated = self._is_validation_due()
                if self._is_validated:
                    self.validate(self.progress.step // self.steps_per_epoch, started_s)
                else:
                    self.parts.save(self.progress, False)
        finally:
            self.close()
        if self.at_end and self.progress.step < self.total_steps:
            self.parts.display.note(
                f"validation was no better for {self.config.patience_epochs} epochs: the training ends at step"
                f" {self.progress.step} of {self.total_steps}"
            )
        return self.at_end

    @property
    def at_end(self) -> bool:
        """Whether nothing is left to train: all epochs are over, or validation has not improved for too long."""
        patience_steps = self.config.patience_epochs * self.steps_per_epoch
        gives_up = self._is_validated and self.progress.out_of_patience(patience_steps)
        return gives_up or self.progress.step >= self.total_steps

    def _is_validation_due(self) -> bool:
        epoch, inside = divmod(self.progress.step, self.steps_per_epoch)
        return not inside and (epoch % self.config.eval_every_epochs == 0 or epoch == self.config.epochs)

    def close(self) -> None:
        """Stop making batches ahead."""
        if self._batches:
            self._batches.close()
            self._batches = None

    def train_until(self, last: int) -> None:
        """Take the steps up to, and without, step `last`; fewer if asked to stop."""
        if self._batches is None:  # one row of batches for the whole run: an epoch's first are ready when it begins
            self._batches = self.parts.worker.batches(self.progress.step, max(self.total_steps, last))
        self._interval.restart()
        for step in range(self.progress.step, last):
            real_rows = self.parts.sampler.real_rows(step)
            self.parts.step(self._batches, step=step, real_rows=real_rows, rate=self.rate(step))
            self.progress.step = step + 1
            self.progress.clips += real_rows
            self._interval.clips += real_rows
            save = self._due(self.config.save_every_steps) and step + 1 < last
            if self._due(self.config.log_every_steps) or save or step + 1 == last:
                self._log()
            if self._stopping:
                break
            if save:
                self.parts.save(self.progress, False)
                self._interval.restart()  # the time of a save is not training time

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return learning_rate(step, self.config, steps_per_epoch=self.steps_per_epoch)

    def _log(self) -> None:
        figures = self.parts.step.read(self.parts.stop_asked())
        self._stopping = figures.stop
        interval_s, wait_s, clips = self._interval.restart()
        self.progress.train_s += interval_s
        self._epoch.add(figures.loss, clips)
        rate = self.rate(self.progress.step - 1)
        record = {
            "train/loss": figures.loss,
            "train/accuracy": figures.accuracy,
            "train/learning_rate": rate,
            "train/gradient_norm": figures.gradient_norm,
            "train/skipped_steps": figures.skipped_steps,
            "perf/clips_per_s": clips / interval_s,
            "perf/data_wait_share": wait_s / interval_s,
        }
        self.parts.tracker.log({**self._place(), **record})
        self.parts.display.update(
            self.progress.step,
            epoch=(self.progress.step - 1) // self.steps_per_epoch + 1,
            loss=figures.loss,
            accuracy=figures.accuracy,
            learning_rate=rate,
            clips_per_s=clips / interval_s,
            data_wait_share=wait_s / interval_s,
        )
        if figures.bad_steps_in_row >= self.config.max_bad_steps:
            raise TrainingError(self._bad_steps_sentence(figures, rate))

    def validate(self, epoch: int, started_s: float) -> None:
        """Evaluate on the validation split, save, and note if this is the best so far."""
        model = self.parts.evaluated_model()
        evaluation = self.parts.validate(model) if self.parts.validate else None
        test = self.parts.test(model) if self.parts.test else None
        is_best = self._note_if_best(evaluation)
        self.parts.save(self.progress, is_best)
        record = {}
        for split, result in (("val", evaluation), ("test", test)):
            if result:
                record |= {f"{split}/loss": result.loss, f"{split}/accuracy": result.accuracy}
        if record:
            self.parts.tracker.log({**self._place(), **record})
        self.parts.display.epoch_row(
            epoch,
            train_loss=self._epoch.take(),
            val_loss=evaluation.loss if evaluation else None,
            val_accuracy=evaluation.accuracy if evaluation else None,
            test_accuracy=test.accuracy if test else None,
            is_best=is_best,
            learning_rate=self.rate(self.progress.step - 1),
            time_s=time.monotonic() - started_s,
        )

    def _note_if_best(self, evaluation: Evaluation | None) -> bool:
        progress = self.progress
        is_best = evaluation is None or progress.is_better(evaluation)
        if is_best:
            progress.best_step = progress.step
        if evaluation and is_best:
            progress.best_accuracy, progress.best_loss = evaluation.accuracy, evaluation.loss
        return is_best

    def _due(self, every_steps: int) -> bool:
        return every_steps > 0 and self.progress.step % every_steps == 0

    def _place(self) -> dict[str, Any]:
        return {"step": self.progress.step, "clips_seen": self.progress.clips, "time_s": self.progress.train_s}

    def _bad_steps_sentence(self, figures: StepFigures, rate: float) -> str:
        self.close()  # nobody else draws meanwhile
        step = self.progress.step - 1
        batch = self.parts.worker.draw_numbers(step)
        keys = [self.parts.store.rows.keys[clip] for clip in self.parts.sampler.draws(batch).clip[:8]]
        return (
            f"{figures.bad_steps_in_row} steps in a row, up to step {step}, had a loss or gradient that is not finite,"
            f" at learning rate {rate:.3g}; the last batch began with {', '.join(keys)}: lower --train.learning_rate,"
            " set --train.clip_norm, or look at those clips; the last checkpoint is kept"
        )


class _Interval:
    """What went by since the last log point."""

    def __init__(self, worker: DeviceWorker) -> None:
        self._worker = worker
        self.clips = 0
        self.restart()

    def restart(self) -> tuple[float, float, int]:
        """Start anew; return seconds, of which waiting for data, and clips since the last start.

        Exact where the device has just been waited for, as it is when figures are read.
        """
        now_s, wait_s, clips = time.perf_counter(), self._worker.wait_s, self.clips
        passed_s = now_s - getattr(self, "_started_s", now_s)
        waited_s = wait_s - getattr(self, "_wait_s", 0.0)
        self._started_s, self._wait_s, self.clips = now_s, wait_s, 0
        return passed_s, waited_s, clips


class _Mean:
    """A mean over clips, emptied when taken."""

    def __init__(self) -> None:
        self._sum, self._clips = 0.0, 0

    def add(self, value: float, clips: int) -> None:
        self._sum, self._clips = self._sum + value * clips, self._clips + clips

    def take(self) -> float:
        mean = self._sum / self._clips if self._clips else math.nan
        self._sum, self._clips = 0.0, 0
        return mean
