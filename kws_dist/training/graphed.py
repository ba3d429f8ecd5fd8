"""The whole step as recorded CUDA graphs: the host starts two graphs where it would start a thousand kernels."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, distributed

from kws_dist.config import TrainConfig
from kws_dist.data.drawn import Drawn
from kws_dist.data.sampler import Draws
from kws_dist.data.store import Store
from kws_dist.data.workers import DeviceWorker
from kws_dist.errors import UsageError
from kws_dist.training.learner import Learner
from kws_dist.training.step import StepFigures, TrainStep

T = TypeVar("T", Drawn, Draws)

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes something that is called of something that is called, such as a graph that replays it."""

_WARM_UPS = 3  # torch's recipe: before that, libraries still choose kernels and take memory


def check_graphed(train: TrainConfig, device: torch.device, store: Store) -> None:
    """Raise `UsageError` where steps cannot be recorded."""
    if device.type != "cuda":
        raise UsageError("--train.cuda_graph needs a GPU: leave it out")
    if not store.on_device:
        raise UsageError("--train.cuda_graph needs the clips on the GPU: set --data.residency device, or leave it out")
    if train.precision == "fp16":
        raise UsageError("--train.cuda_graph does not go with --train.precision fp16: choose bf16 or fp32")
    if train.optimizer in ("muon", "novograd"):
        raise UsageError(f"--train.cuda_graph does not go with --train.optimizer {train.optimizer}: leave one out")


class GraphedStep:
    """Takes the steps of a `TrainStep` by replaying two graphs, with the same results to rounding.

    One graph holds a micro-step (gather, augmentation, features, forward, backward) and is replayed for each; the other
    holds the update. Between them the gradients, which lie in one piece of memory, are averaged over the ranks: the
    model is not wrapped for that. Draws come from outside, a million at a time, and so does what depends on the step
    number in Python: the seed of dropout and the decay of the average.
    """

    def __init__(
        self, step: TrainStep, worker: DeviceWorker, learner: Learner, *, world: int = 1, record: Record | None = None
    ) -> None:
        """`step` of a model that is not wrapped. `record`: how a part is recorded, by default as a CUDA graph."""
        self._step, self._worker, self._learner, self._world = step, worker, learner, world
        self._record = record or _as_graph
        self._parts: tuple[Callable[[], None], Callable[[], None]] | None = None

    def __call__(self, micro_batches: Iterable[Drawn], *, step: int, real_rows: int, rate: float) -> None:
        """Take optimizer step `step` on the draws of its micro-batches; otherwise as `TrainStep`."""
        for number, drawn in enumerate(islice(micro_batches, self._step.accumulate)):
            if self._parts is None:
                self._prepare(drawn)
            if number == 0:
                self._step.begin(rate)
                self._real_rows.fill_(real_rows)
            _copy(drawn, self._drawn)
            self._step.seed_dropout(step, number)
            self._replay(0)
        if self._world > 1:
            distributed.all_reduce(self._gradients)
            self._gradients.div_(self._world)
        self._replay(1)
        self._step.end(step)

    def read(self, *, stop: bool = False, out_of_time: bool = False) -> StepFigures:
        """As `TrainStep.read`."""
        return self._step.read(stop=stop, out_of_time=out_of_time)

    def forgive(self) -> None:
        """As `TrainStep.forgive`; and record anew, because the optimizer's memory may have been replaced."""
        self._step.forgive()
        self._parts = None

    def _replay(self, part: int) -> None:
        assert self._parts is not None, "recorded before the first step"
        self._parts[part]()

    def _prepare(self, drawn: Drawn) -> None:
        """Record the parts. The runs before that are of steps that are bad on purpose, and so leave no trace."""
        self._drawn = _copied(drawn)
        self._real_rows = torch.full((), torch.nan, device=drawn.numbers.device)
        for group in self._learner.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=drawn.numbers.device)
            if "capturable" in group:
                group["capturable"] = True
        side = torch.cuda.Stream() if drawn.numbers.is_cuda else None
        if side:
            side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step.begin(rate=0.0)
                self._micro_step()
                self._update()
        if side:
            torch.cuda.current_stream().wait_stream(side)
        self._gradients = _joined([p for p in self._learner.model.parameters() if p.grad is not None])
        self._parts = self._record(self._micro_step), self._record(self._update)
        self._step.forgive()

    def _micro_step(self) -> None:
        self._step.forward_backward(self._worker.batch_of(self._drawn), self._real_rows)
        self._step.count()  # into memory that outlives the replay

    def _update(self) -> None:
        self._step.update()
        self._learner.model.zero_grad(set_to_none=False)


def _joined(parameters: list[Tensor]) -> Tensor:
    """Give the gradients of the parameters one piece of memory, zeroed, and return it."""
    joined = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
    parts = joined.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return joined


def _as_graph(body: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def _copied(one: T) -> T:
    """Return the same values in new memory."""
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    return replace(one, **{name: _new(value) for name, value in values.items()})


def _new(value: object) -> object:
    if isinstance(value, Tensor):
        return value.clone()
    return _copied(value) if isinstance(value, Draws) else value


def _copy(source: T, target: T) -> None:
    """Write the values of one into the memory of the other."""
    for field in fields(source):
        value, place = getattr(source, field.name), getattr(target, field.name)
        if isinstance(value, Tensor):
            place.copy_(value)
        elif isinstance(value, Draws):
            _copy(value, place)
