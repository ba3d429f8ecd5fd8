"""The face that torch's own `DataLoader` knows: clip numbers one by one, a rank and an epoch at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler as TorchSampler

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.errors import UsageError

_DRAWN_AT_ONCE = 4096


class EpochSampler(TorchSampler[int]):
    """Iterates over this rank's clip numbers of one epoch, for a `DataLoader(dataset, rows, sampler=...)`.

    `rows`, the loader's batch size, is `sampler.slice.rows`. Each iteration is the next epoch, unless `set_epoch`
    says otherwise. The state is one integer, the step: whatever the rank, the number of ranks and the accumulation.
    """

    def __init__(self, batch_slice: BatchSlice) -> None:
        self.slice = batch_slice
        self._step = 0
        self._loaded = False

    steps_per_epoch: int
    labels_digest: str
    """Tells the clips apart that the draws are of."""

    def draws(self, t: Any) -> Any:
        """Return what is drawn at each of the draw numbers `t` `(B,)`."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return all that the draws depend on, besides the data."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of this epoch, counted from 0.

        Right after `load_state_dict` the epoch that was being iterated over goes on where it was.
        """
        if epoch < 0:
            raise UsageError(f"epoch {epoch}: epochs are counted from 0")
        if not (self._loaded and epoch == self._step // self.steps_per_epoch):
            self._step = epoch * self.steps_per_epoch
        self._loaded = False

    def __iter__(self) -> Iterator[int]:
        self._loaded = False
        rows = self.slice.rows * self.slice.accumulate
        at_once = max(_DRAWN_AT_ONCE // (rows * self.slice.world), 1)
        step, end = self._step, (self._step // self.steps_per_epoch + 1) * self.steps_per_epoch
        while step < end:
            some = range(step, min(step + at_once, end))
            clips = self.draws(np.concatenate([self.slice.step_numbers(one) for one in some])).clip.tolist()
            for step in some:
                self._step = step + 1
                yield from clips[(step - some.start) * rows : (step - some.start + 1) * rows]
            step = some.stop

    def __len__(self) -> int:
        """Return the clip numbers of this rank in a whole epoch."""
        return self.steps_per_epoch * self.slice.rows * self.slice.accumulate

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on after the steps that were begun so far.

        A loader with worker processes runs ahead of the training: name the number of optimizer steps taken.
        """
        step = self._step if step is None else step
        return {"step": step, "labels": self.labels_digest, "settings": self.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raises `UsageError` if its draws would have been others than these."""
        if not isinstance(state, dict) or {*state} < {"step", "labels", "settings"}:
            raise UsageError("this is no state of a sampler: give what state_dict() returned")
        if int(state["step"]) != state["step"] or state["step"] < 0:
            raise UsageError(f"the sampler's state has step {state['step']}: it should be a whole number from 0")
        now, then = self.settings(), state["settings"]
        changed = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        if changed:
            what = ", ".join(_difference(name, then.get(name), now.get(name)) for name in changed)
            raise UsageError(f"the sampler's state is of other draws: {what}; make the sampler with the old settings")
        if state["labels"] != self.labels_digest:
            raise UsageError("the sampler's state is of other clips: make the sampler with the labels it began with")
        self._step, self._loaded = int(state["step"]), True


def _difference(name: str, was: Any, now: Any) -> str:
    return name if isinstance(now, list) else f"{name} (was {was}, is {now})"
