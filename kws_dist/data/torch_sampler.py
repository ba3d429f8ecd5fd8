"""The face that torch's own `DataLoader` knows: clip numbers one by one, a rank and an epoch at a time."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler as TorchSampler

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.errors import UsageError


class EpochSampler(TorchSampler[int]):
    """Iterates over this rank's clip numbers of one epoch, for a `DataLoader(dataset, rows, sampler=...)`.

    `rows`, the loader's batch size, is `sampler.slice.rows`. Each iteration is the next epoch, unless `set_epoch`
    says otherwise. The state is one integer, the step: whatever the rank, the number of ranks and the accumulation.
    """

    def __init__(self, batch_slice: BatchSlice) -> None:
        self.slice = batch_slice
        self._step = 0

    steps_per_epoch: int

    def draws(self, t: Any) -> Any:
        """Return what is drawn at each of the draw numbers `t` `(B,)`."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of this epoch, counted from 0."""
        self._step = epoch * self.steps_per_epoch

    def __iter__(self) -> Iterator[int]:
        first = self._step
        end = (first // self.steps_per_epoch + 1) * self.steps_per_epoch
        for step in range(first, end):
            self._step = step + 1
            yield from self.draws(self.slice.step_numbers(step)).clip.tolist()

    def __len__(self) -> int:
        """Return the clip numbers of this rank in a whole epoch."""
        return self.steps_per_epoch * self.slice.rows * self.slice.accumulate

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on after the steps that were begun so far.

        A loader with worker processes runs ahead of the training: name the number of optimizer steps taken.
        """
        return {"step": self._step if step is None else step, "settings": self.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raises `UsageError` if its draws would have been others than these."""
        now, then = self.settings(), state["settings"]
        changed = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        if changed:
            what = ", ".join(f"{name} (was {then.get(name)}, is {now.get(name)})" for name in changed)
            raise UsageError(f"the sampler's state is of other draws: {what}; make the sampler with the old settings")
        self._step = int(state["step"])
