"""One optimizer step: micro-batches forward and backward, one update, no wait for the device."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors
from torch.profiler import record_function

from kws_dist import keyed
from kws_dist.data.workers import Batch
from kws_dist.training.average import MovingAverage
from kws_dist.training.buffers import NormStatistics
from kws_dist.training.losses import LabelLoss, Teacher
from kws_dist.training.optim import AnyOptimizer
from kws_dist.training.transfer import frozen_modules

_SEEN_AT_ONCE = 64
_DROPOUT = 2001  # what a key is for; see `frontend.augment.Purpose`


@dataclass(frozen=True)
class StepFigures:
    """What happened since the last reading, over all ranks."""

    loss: float
    """Mean over the clips, as it was minimised; those whose loss was not finite are left out, nan if all were."""
    accuracy: float
    """Share of the clips whose own word was the most likely one; lower where clips are mixed."""
    gradient_norm: float
    """Of the last step."""
    bad_steps_in_row: int
    """Steps up to now whose loss or gradient was not finite, and that were skipped."""
    skipped_steps: int
    """Skipped steps since the last reading."""
    stop: bool
    """Some rank was asked to stop."""
    out_of_time: bool
    """Some rank's time is up."""


class TrainStep:
    """Trains on one global batch at a time; figures stay on the device until they are read.

    The loss is the sum over the global batch's real rows divided by their number, whatever the number of ranks and
    micro-batches. Random numbers inside the model (dropout) are seeded for each micro-batch from (seed, step,
    micro-step, rank): the state of the generator never matters, so nothing of it has to be saved.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: AnyOptimizer,
        accelerator: Accelerator,
        *,
        seed: int,
        loss: LabelLoss | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        average: MovingAverage | None = None,
        norm_statistics: NormStatistics | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        """`model` as prepared by the accelerator; `clip_norm` 0 is no clipping."""
        self._model, self._optimizer, self._accelerator = model, optimizer, accelerator
        self._loss, self._teacher, self.accumulate = loss or LabelLoss(), teacher, accumulate
        self._dropout_key = keyed.fold(seed, _DROPOUT, accelerator.process_index)
        self._clip_norm, self._average, self._norm_statistics = clip_norm, average, norm_statistics
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._frozen = frozen_modules(model)
        device = accelerator.device
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, rows
        self._norm = torch.zeros((), device=device)
        self._bad = torch.zeros(2, dtype=torch.int64, device=device)  # in a row, in all
        self._bad_in_row = self._bad[0]
        self._seen: list[tuple[Tensor, ...]] = []  # loss, logits, labels, weights of micro-batches not yet counted
        self._root = accelerator.unwrap_model(model)
        self._to_training()

    def __call__(self, micro_batches: Iterable[Batch], *, step: int, real_rows: int, rate: float) -> None:
        """Take optimizer step `step` with learning rate `rate`; `real_rows` is the global batch's true size."""
        self.begin(rate)
        taken = 0
        for micro_step, batch in enumerate(islice(micro_batches, self.accumulate)):
            taken, last = micro_step + 1, micro_step == self.accumulate - 1
            self.seed_dropout(step, micro_step)
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                self.forward_backward(batch, real_rows)
        assert taken == self.accumulate, "there is a batch for every micro-step"
        with record_function("kws/optimizer"):
            self.update()
            for parameter in self._parameters:  # the model's own method looks for them first
                parameter.grad = None
            self.end(step)

    def begin(self, rate: float) -> None:
        """Make ready for a step."""
        if not self._root.training:
            self._to_training()
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * group["scale"])
            else:
                group["lr"] = rate * group["scale"]
        if self._norm_statistics:
            self._norm_statistics.keep()

    def _to_training(self) -> None:
        """Let all modules train but the frozen ones; walking through them costs as much as a layer."""
        self._model.train()
        for module in self._frozen:
            module.eval()

    def forward_backward(self, batch: Batch, real_rows: int | Tensor) -> None:
        """Add the gradients of a micro-batch, and take down its figures."""
        with record_function("kws/forward"):
            with self._accelerator.autocast():
                logits = self._model(batch.features)
            loss = (self._losses(logits.float(), batch) * batch.weights).sum()
        # DDP averages over ranks what should be summed. A loss that is not finite poisons the gradient, which all ranks
        # share, so that all of them skip the step: anything but a number, times 0, is not a number.
        scale = loss.detach() * 0.0 + self._accelerator.num_processes / real_rows
        with record_function("kws/backward"):
            self._accelerator.backward(loss, gradient=scale)
        self._seen.append((loss.detach(), logits.detach(), batch.labels, batch.weights))
        if len(self._seen) == _SEEN_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Add up what was seen: many micro-batches at once, because each operation costs more than what it adds up."""
        if not self._seen:
            return
        loss, logits, labels, weights = zip(*self._seen, strict=True)
        self._seen.clear()
        losses, weighed = torch.stack(loss), torch.stack(weights)
        hits = (torch.stack(logits).argmax(2) == torch.stack(labels)) * weighed
        sums = torch.stack((losses, hits.sum(1), weighed.sum(1)))
        self._sums += torch.where(losses.isfinite(), sums, 0.0).sum(1, dtype=torch.float64)

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return what is minimised for each clip `(B,)`: its label's part, and its teacher's, if there is one."""
        losses = self._loss(logits, batch)
        if self._teacher is None:
            return losses
        assert batch.teacher_features is not None, "where there is a teacher, the worker makes its features"
        with self._accelerator.autocast():
            answer = self._teacher(batch.teacher_features)
        imitation = self._loss.weighted(self._teacher.losses(logits, answer), batch)
        return torch.lerp(losses, imitation, self._teacher.weight)

    def update(self) -> None:
        """Change the weights, unless the gradient is not finite; then nothing at all changes but the counters."""
        scaler = self._accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self._optimizer)  # pyright: ignore[reportArgumentType]
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._norm = _total_norm(gradients)
        if self._clip_norm:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip_norm, self._norm)
        bad = ~self._norm.isfinite()
        if self._norm_statistics:
            self._norm_statistics.restore(bad)
        self._bad.add_(bad)
        self._bad_in_row.mul_(bad)
        if scaler is not None:
            scaler.step(self._optimizer)  # pyright: ignore[reportArgumentType]  (it skips by itself)
            scaler.update()
        else:
            self._optimizer.found_inf = bad.to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
            self._optimizer.step()

    def end(self, step: int) -> None:
        """Take the weights after optimizer step `step` into their average."""
        if self._average:
            self._average.update(step)

    def read(self, *, stop: bool = False, out_of_time: bool = False) -> StepFigures:
        """Wait for the device, sum the figures over the ranks and start anew. All ranks must call it together.

        `stop`, `out_of_time`: what this rank has met; carried along, so that all ranks stop at the same step.
        """
        self.count()
        met = torch.tensor([stop, out_of_time], dtype=torch.float64, device=self._sums.device)
        sums = self._accelerator.reduce(torch.cat((self._sums, met)), "sum")
        assert isinstance(sums, Tensor)
        loss, correct, rows, stops, times_up = sums.tolist()
        in_row, skipped = self._bad.tolist()
        self._sums.zero_()
        self._bad[1] = 0
        share = (loss / rows, correct / rows) if rows else (math.nan, math.nan)
        return StepFigures(*share, self._norm.item(), in_row, skipped, stops > 0, times_up > 0)

    def forgive(self) -> None:
        """Start all figures anew."""
        self._seen.clear()
        self._sums.zero_()
        self._bad.zero_()

    def seed_dropout(self, step: int, micro_step: int) -> None:
        """Make what is random inside the model a function of the place in the run."""
        key = keyed.fold(self._dropout_key, step, micro_step)
        torch.default_generator.manual_seed(key & (2**63 - 1))
        if self._accelerator.device.type == "cuda":
            torch.cuda.manual_seed(key & (2**63 - 1))


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """As `torch.nn.utils.get_total_norm`; a CPU, which has no kernel for many tensors at once, joins them first."""
    if gradients[0].is_cuda:
        return nn.utils.get_total_norm(gradients)
    return torch.linalg.vector_norm(_flatten_dense_tensors(gradients))
