"""How far a run is; part of every checkpoint."""

import math
from dataclasses import dataclass

LAST = "last"
"""The value of `--train.best_by` with which each validated checkpoint is better than those before it."""


@dataclass
class Progress:
    """How far a run is. `step` says all about the draws to come, with the seed and the data."""

    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    clips: int = 0
    """Clips trained on."""
    train_s: float = 0.0
    """Time spent in training steps, over all jobs of the run."""
    skipped_steps: int = 0
    """Steps that changed nothing, because their loss or gradient was not finite. They do not move the schedule."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint because too many steps in a row were skipped."""
    rate_factor: float = 1.0
    """What the rate is multiplied by since then."""
    validated_step: int = 0
    """Step of the last validation; 0 if there was none."""
    best_step: int = 0
    """Step of the best validation so far; 0 if there was none."""
    best_figure: float = 0.0
    """The figure by which it was the best (`--train.best_by`)."""
    best_loss: float = 0.0

    def is_better(self, figures: dict[str, float], by: str) -> bool:
        """Return whether a validation is the best so far: by one of its figures, and by loss where that ties."""
        now, best = (figures[by], figures["loss"]), (self.best_figure, self.best_loss)
        return self.best_step == 0 or _merit(*now, by) > _merit(*best, by)

    def note_best(self, figures: dict[str, float], by: str) -> None:
        """Take down that the validation of this step is the best so far."""
        self.best_step, self.best_figure, self.best_loss = self.step, figures[by], figures["loss"]

    def out_of_patience(self, patience_steps: int) -> bool:
        """Return whether, at a validation, the best one is that many steps ago; never, if that is 0."""
        at_validation = self.validated_step == self.step and self.best_step > 0
        return at_validation and 0 < patience_steps <= self.step - self.best_step

    def out_of_time(self, max_minutes: float) -> bool:
        """Return whether the run has been trained for so long; never, if that is 0."""
        return 0.0 < 60.0 * max_minutes <= self.train_s


def _merit(figure: float, loss: float, by: str) -> tuple[float, float]:
    """Return what is larger for a better validation; what is not a number is worse than any."""
    merits = (-figure if by == "loss" else figure, -loss)
    return tuple(-math.inf if math.isnan(merit) else merit for merit in merits)  # pyright: ignore[reportReturnType]
