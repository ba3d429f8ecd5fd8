"""A step that is recorded and replayed does what a step does; here the record is the step itself, on a CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import a_job, take_steps

from kws_dist.config import TrainConfig
from kws_dist.data.drawn import Drawn
from kws_dist.data.sampler import Draws
from kws_dist.errors import UsageError
from kws_dist.training.graphed import GraphedStep, check_graphed

STEPS = 6
EVERYTHING = ("--data.residency", "device", "--train.accumulate", "2", "--train.clip_norm", "0.5")
EVERYTHING += ("--augment.mixup_probability", "0.5", "--augment.speed_percent", "10")
MODELS = {
    "gru": ("--model.params", "hidden", "8", "layers", "2", "dropout", "0.2"),
    "bcresnet": ("--model.name", "bcresnet", "--model.params", "tau", "1", "dropout", "0.1"),
}


def as_tensors(drawn: Iterator[Drawn]) -> Iterator[Drawn]:
    """Draws as they are on a GPU, in tensors."""
    for one in drawn:
        draws = Draws(*(torch.from_numpy(column) for column in vars(one.draws).values()))
        yield replace(one, draws=draws, partner=None if one.partner is None else torch.from_numpy(one.partner))


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name, tensor in a.items():
        if not name.endswith("num_batches_tracked"):  # a counter that nothing reads, and the first runs move
            torch.testing.assert_close(tensor, b[name], msg=name, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("model", MODELS)
def test_replayed_steps_leave_the_weights_of_eager_ones(tiny_dataset: Path, model: str, optimizer: str) -> None:
    settings = (*EVERYTHING, *MODELS[model], "--train.optimizer", optimizer)
    with a_job(tiny_dataset, *settings) as (job, parts):
        expected = take_steps(job, parts, STEPS)
        assert job.learner.average is not None
        average, figures = job.learner.average.module.state_dict(), parts.step.read()
    with a_job(tiny_dataset, *settings) as (job, parts):
        start = {name: tensor.clone() for name, tensor in job.learner.model.state_dict().items()}
        graphed = GraphedStep(parts.step, parts.worker, job.learner, record=lambda body: body)
        drawn = as_tensors(parts.worker.drawn(0, STEPS))
        for step in range(STEPS):
            graphed(drawn, step=step, real_rows=parts.sampler.real_rows(step), rate=0.05)
        weights = job.learner.model.state_dict()
        assert job.learner.average is not None
        assert_close(job.learner.average.module.state_dict(), average)
        replayed = graphed.read()
    assert figures.skipped_steps == replayed.skipped_steps == 0
    assert replayed.loss == pytest.approx(figures.loss, rel=1e-5)
    assert replayed.accuracy == figures.accuracy
    assert_close(weights, expected)
    assert any(not torch.equal(start[name], expected[name]) for name in start)


def test_a_bad_step_is_skipped_when_replayed_too(tiny_dataset: Path) -> None:
    with a_job(tiny_dataset, "--data.residency", "device", *MODELS["bcresnet"]) as (job, parts):
        graphed = GraphedStep(parts.step, parts.worker, job.learner, record=lambda body: body)
        drawn = as_tensors(parts.worker.drawn(0, 3))
        graphed(drawn, step=0, real_rows=12, rate=0.05)
        before = {name: tensor.clone() for name, tensor in job.learner.model.state_dict().items()}
        graphed(drawn, step=1, real_rows=0, rate=0.05)  # a loss divided by nothing
        after = job.learner.model.state_dict()
        assert [
            name for name in before if "num_batches" not in name and not torch.equal(before[name], after[name])
        ] == []
        assert graphed.read().skipped_steps == 1
        graphed(drawn, step=2, real_rows=12, rate=0.05)
        assert not all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)


def test_what_cannot_be_recorded_is_refused(tiny_dataset: Path) -> None:
    with a_job(tiny_dataset, "--data.residency", "host") as (job, _):
        store = job.data.stores["train"]
        with pytest.raises(UsageError, match=r"--train.cuda_graph needs a GPU"):
            check_graphed(TrainConfig(), torch.device("cpu"), store)
        with pytest.raises(UsageError, match=r"--data.residency device"):
            check_graphed(TrainConfig(), torch.device("cuda"), store)
    with a_job(tiny_dataset, "--data.residency", "device") as (job, _):
        store = job.data.stores["train"]
        for name, value in (("precision", "fp16"), ("optimizer", "muon"), ("optimizer", "novograd")):
            with pytest.raises(UsageError, match=value):
                check_graphed(TrainConfig(**{name: value}), torch.device("cuda"), store)
        check_graphed(TrainConfig(), torch.device("cuda"), store)
