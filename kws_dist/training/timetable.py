"""After which steps of a run something is due: a pure function of the settings, so all ranks agree on it."""

from dataclasses import dataclass

from kws_dist.config import TrainConfig


def run_length(train: TrainConfig, steps_per_epoch: int) -> int:
    """Return the optimizer steps of the whole run."""
    return train.steps or train.epochs * steps_per_epoch


@dataclass(frozen=True)
class Timetable:
    """What is due once so many steps have been taken."""

    train: TrainConfig
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return run_length(self.train, self.steps_per_epoch)

    @property
    def patience_steps(self) -> int:
        """Steps without a better validation after which the training ends; 0 for never."""
        return self.train.patience_epochs * self.steps_per_epoch

    def validates(self, step: int) -> bool:
        """Return whether validation is due after `step` steps; at the end it always is."""
        every = self.train.eval_every_steps or self.train.eval_every_epochs * self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def saves(self, step: int) -> bool:
        """Return whether a checkpoint is due: with each validation, at the end of each epoch, and as asked for."""
        asked = self.train.save_every_steps and step % self.train.save_every_steps == 0
        return bool(asked) or step % self.steps_per_epoch == 0 or self.validates(step)

    def logs(self, step: int) -> bool:
        """Return whether figures are read: every few steps, and before anything that takes longer than a step."""
        return step % self.train.log_every_steps == 0 or self.saves(step)
