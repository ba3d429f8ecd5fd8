"""The training step on a GPU: in every precision, without a wait for the device, and replayed from a CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from jobs import a_job, take_steps

from kws_dist.training.session import run_job
from kws_dist.training.stop import StopRequest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

STEPS = 8
MODELS = {
    "gru": ("--model.params", "hidden", "32", "layers", "2", "dropout", "0.2"),
    "bcresnet": ("--model.name", "bcresnet", "--model.params", "tau", "1", "dropout", "0.1"),
}
AUGMENTED = ("--augment.mixup_probability", "0.5", "--augment.speed_percent", "10", "--data.residency", "device")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Fail where the host waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_between_readings_the_host_waits_for_nothing(tiny_dataset: Path, model: str, precision: str) -> None:
    more = ("--train.precision", precision, "--train.accumulate", "2", "--train.clip_norm", "1.0")
    with a_job(tiny_dataset, *MODELS[model], *AUGMENTED, *more) as (_, parts):
        batches = parts.batches(0, 2 * STEPS)
        for step in range(2 * STEPS):
            if step < STEPS:  # kernels are chosen and memory is taken
                parts.step(batches, step=step, real_rows=12, rate=0.01)
                continue
            with no_waiting():
                parts.step(batches, step=step, real_rows=12, rate=0.01)
        batches.close()
        assert parts.step.read().loss > 0.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_float32_does(tiny_dataset: Path, precision: str) -> None:
    losses = []
    for one in ("fp32", precision):
        with a_job(tiny_dataset, *MODELS["bcresnet"], "--train.precision", one) as (job, parts):
            take_steps(job, parts, 40, rate=0.05)
            losses.append(parts.step.read().loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_scaled_overflow_is_skipped_and_its_scale_is_in_the_checkpoint(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ("--run_dir", tmp_path, "--train.precision", "fp16", *MODELS["bcresnet"])
    with a_job(tiny_dataset, *settings) as (job, parts):
        assert job.accelerator.scaler is not None
        job.accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**60)
        before = {name: weight.clone() for name, weight in job.learner.model.named_parameters()}
        take_steps(job, parts, 1)
        assert parts.step.read().skipped_steps == 1
        assert all(torch.equal(weight, before[name]) for name, weight in job.learner.model.named_parameters())
        assert job.accelerator.scaler.get_scale() == 2.0**59
    with a_job(tiny_dataset, *settings) as (job, _):
        run_job(job, StopRequest())
        assert job.accelerator.scaler is not None
        scale = job.accelerator.scaler.get_scale()
    with a_job(tiny_dataset, *settings, "--train.epochs", "4") as (job, _):
        assert job.accelerator.scaler is not None
        job.accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
        run_job(job, StopRequest())
        assert job.accelerator.scaler.get_scale() == scale


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_cuda_graph_trains_as_eager_steps_do(tiny_dataset: Path, model: str, precision: str, optimizer: str) -> None:
    more = ("--train.precision", precision, "--train.accumulate", "2", "--train.optimizer", optimizer)
    weights, losses = [], []
    for graph in ((), ("--train.cuda_graph",)):
        with a_job(tiny_dataset, *MODELS[model], *AUGMENTED, *more, *graph) as (job, parts):
            weights.append(take_steps(job, parts, STEPS, rate=0.01))
            losses.append(parts.step.read().loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if precision == "fp32" else 2e-2)
    for name, weight in weights[0].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(weights[1][name], weight, rtol=2e-2, atol=2e-3, msg=name)


def test_a_graphed_run_is_resumed_and_finishes(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ("--run_dir", tmp_path, "--train.cuda_graph", *MODELS["bcresnet"], *AUGMENTED)
    for epochs in ("2", "4"):
        with a_job(tiny_dataset, *settings, "--train.epochs", epochs) as (job, _):
            run_job(job, StopRequest())
    assert '"finished"' in (tmp_path / "state.json").read_text()


def test_a_compiled_model_and_front_end_train(tiny_dataset: Path) -> None:
    losses = []
    for compiled in ((), ("--train.compile",)):
        with a_job(tiny_dataset, *MODELS["bcresnet"], *compiled, "--train.precision", "fp32") as (job, parts):
            take_steps(job, parts, STEPS, rate=0.01)
            losses.append(parts.step.read().loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
