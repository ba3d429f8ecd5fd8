"""How a global batch is cut into the micro-batches of each rank."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kws_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BatchSlice:
    """How one rank cuts its micro-batches out of the global sequence: joined, the ranks' slices are that sequence."""

    global_batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise UsageError(f"--train.accumulate {self.accumulate} should be 1 or more")
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} is not one of {self.world} processes, numbered from 0")
        parts = self.accumulate * self.world
        if self.global_batch < 1 or self.global_batch % parts:
            below = max(self.global_batch, 0) // parts * parts
            choices = ", ".join(str(choice) for choice in (below, below + parts) if choice > 0)
            raise UsageError(
                f"--train.global_batch {self.global_batch} does not divide by --train.accumulate {self.accumulate}"
                f" x {self.world} processes = {parts}: choose a multiple of {parts}, such as {choices}"
            )

    @property
    def rows(self) -> int:
        """Rows of one micro-batch on one rank."""
        return self.global_batch // (self.accumulate * self.world)

    def draw_numbers(self, step: int, micro_step: int) -> NDArray[np.int64]:
        """Return the `(rows,)` draw numbers of this rank's micro-batch."""
        first = step * self.global_batch + (micro_step * self.world + self.rank) * self.rows
        return np.arange(first, first + self.rows, dtype=np.int64)

    def step_numbers(self, step: int) -> NDArray[np.int64]:
        """Return the `(accumulate * rows,)` draw numbers of all micro-batches of this rank in a step."""
        return np.concatenate([self.draw_numbers(step, micro_step) for micro_step in range(self.accumulate)])
