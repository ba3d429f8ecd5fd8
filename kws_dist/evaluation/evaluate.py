"""Exact evaluation on any number of ranks: every clip counts once, whatever the batch size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.clip_reader import disk_order
from kws_dist.data.plans import once_planner
from kws_dist.data.sampler import ExactlyOnceSampler
from kws_dist.data.store import Store
from kws_dist.data.stream_store import StreamStore
from kws_dist.data.workers import DeviceWorker
from kws_dist.evaluation.interval import wilson_interval
from kws_dist.evaluation.worst import WorstClip, WorstClips
from kws_dist.frontend.pipeline import FrontEnd

_BATCHES_BETWEEN_LOOKS = 8


class EvaluationStopped(Exception):
    """A stop was asked for; nothing is known of the model. All ranks raise it together."""


@dataclass(frozen=True)
class Evaluation:
    """What a model got right: all figures follow from the counts."""

    confusion: NDArray[np.int64]
    """`(C, C)` clips: rows are the true words, columns the predicted ones."""
    loss: float
    """Mean cross-entropy; not finite, if that of any clip is not."""
    worst: tuple[WorstClip, ...] = ()
    """The clips with the highest loss, the worst first, as many as were asked for."""

    @property
    def n(self) -> int:
        """Clips evaluated."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Clips whose most likely word is the true one."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """`correct / n`."""
        return self.correct / self.n

    def figures(self, words: Sequence[str]) -> dict[str, float]:
        """Return what a checkpoint can be best by; of words that do not occur nothing is known."""
        clips = self.confusion.sum(axis=1)
        recall = {word: self.confusion[i, i] / clips[i] for i, word in enumerate(words) if clips[i]}
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "balanced_accuracy": float(np.mean(list(recall.values()))),
            "worst_word_recall": float(min(recall.values())),
            **{f"recall/{word}": float(share) for word, share in recall.items()},
        }

    def as_dict(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the figures for a JSON file, which knows no infinity; the interval is Wilson's at 95 %."""
        per_word = {
            word: {"n": int(row.sum()), "correct": int(row[label])}
            for label, (word, row) in enumerate(zip(words, self.confusion, strict=True))
        }
        low, high = wilson_interval(self.correct, self.n)
        figures = self.figures(words)
        return {
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "n": self.n,
            "correct": self.correct,
            "balanced_accuracy": figures["balanced_accuracy"],
            "worst_word_recall": figures["worst_word_recall"],
            "loss": self.loss if math.isfinite(self.loss) else None,
            "per_word": per_word,
            "confusion": self.confusion.tolist(),
        }


class Evaluator:
    """Evaluates models on all clips of one split; every rank takes its share and gets the whole result."""

    def __init__(
        self,
        store: Store,
        front_end: FrontEnd,
        accelerator: Accelerator,
        *,
        num_classes: int,
        batch_per_rank: int = 256,
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        """`stops`: whether to give up, on which all ranks agree; they ask together, each few batches."""
        world = accelerator.num_processes
        batch_slice = BatchSlice(global_batch=batch_per_rank * world, rank=accelerator.process_index, world=world)
        batch, order = batch_slice.global_batch, disk_order(store.rows)
        sampler = ExactlyOnceSampler(len(store.rows), seed=0, global_batch=batch, shuffle=False, order=order)
        if isinstance(store, StreamStore):
            store.plan = once_planner(sampler, store.rows, batch_slice)
        self.steps = sampler.steps_per_epoch
        self._worker = DeviceWorker(store, sampler, front_end, batch_slice, accelerator.device)
        self._accelerator, self._num_classes, self._stops = accelerator, num_classes, stops

    @torch.inference_mode()
    def __call__(self, model: nn.Module, *, steps: int | None = None, worst: int = 0) -> Evaluation:
        """Evaluate `model` (as it is on each rank, so they must agree); `steps` limits it to some batches.

        `worst`: of how many clips with the highest loss to say which they are. All ranks must call it together.
        Raises `EvaluationStopped`.
        """
        model.eval()
        device = self._accelerator.device
        confusion = torch.zeros(self._num_classes**2, dtype=torch.int64, device=device)
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        kept = WorstClips(worst, device)
        for number, batch in enumerate(self._worker.batches(0, steps or self.steps)):
            if number % _BATCHES_BETWEEN_LOOKS == 0 and self._stops():
                raise EvaluationStopped
            with self._accelerator.autocast():
                logits = model(batch.features)
            real = batch.weights > 0
            cell = batch.labels * self._num_classes + logits.argmax(1)
            confusion.scatter_add_(0, cell, real.long())
            losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
            loss_sum += losses.double().where(real, 0.0).sum()
            if worst:
                kept.add(_sent(batch.draws.clip, device), losses, logits, real)
        confusion, loss_sum = self._accelerator.reduce((confusion, loss_sum), "sum")  # pyright: ignore
        counts = confusion.view(self._num_classes, -1).cpu().numpy()
        return Evaluation(counts, loss_sum.item() / max(int(counts.sum()), 1), self._worst_of_all(kept))

    def _worst_of_all(self, kept: WorstClips) -> tuple[WorstClip, ...]:
        """Return the worst clips of all ranks."""
        count = len(kept.order)
        if not count:
            return ()
        of_all = WorstClips(count, self._accelerator.device)
        of_all.keep(*self._accelerator.gather((kept.order, kept.found)))  # pyright: ignore
        return of_all.clips()


def _sent(clip: Any, device: torch.device) -> Tensor:
    """Return clip numbers `(B,)` on the device, where they may be already, without waiting for it."""
    if isinstance(clip, Tensor):
        return clip
    numbers = torch.from_numpy(clip)
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers
