"""One optimizer step means the same however it is cut up, and a bad one changes nothing."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from kws_dist.config import TrainConfig
from kws_dist.data.sampler import BatchSlice, ClassBalancedDistributedSampler, Draws, ExactlyOnceSampler, Sampler
from kws_dist.data.workers import Batch
from kws_dist.training.average import MovingAverage
from kws_dist.training.buffers import NormStatistics
from kws_dist.training.losses import LabelLoss, Teacher
from kws_dist.training.optim import build_optimizer
from kws_dist.training.step import TrainStep

CLIPS = 50
LABELS = np.arange(CLIPS, dtype=np.int64) % 3
FEATURES = torch.randn(CLIPS, 1, 8, 6, generator=torch.Generator().manual_seed(0))


def batches(sampler: Sampler, accumulate: int, steps: int) -> Iterator[Batch]:
    batch_slice = BatchSlice(global_batch=sampler.global_batch, accumulate=accumulate)  # type: ignore[attr-defined]
    for step, micro_step in itertools.product(range(steps), range(accumulate)):
        draws = sampler.draws(batch_slice.draw_numbers(step, micro_step))
        yield Batch(FEATURES[draws.clip], torch.from_numpy(LABELS[draws.clip]), torch.from_numpy(draws.weight), draws)


def small_model(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    inside = [nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(dropout), *inside, nn.Linear(16, 3))


def make_step(model: nn.Module, name: Any = "sgd", *, label_smoothing: float = 0.0, **options: float) -> TrainStep:
    optimizer = build_optimizer(model, TrainConfig(optimizer=name, weight_decay=1e-3))
    loss = LabelLoss(label_smoothing=label_smoothing)
    return TrainStep(model, optimizer, Accelerator(cpu=True), seed=0, loss=loss, **options)  # type: ignore[arg-type]


def train(sampler: Sampler, *, accumulate: int, steps: int = 10, **options: float) -> nn.Module:
    model = small_model()
    step = make_step(model, accumulate=accumulate, **options)
    stream = batches(sampler, accumulate, steps)
    for number in range(steps):
        step(stream, step=number, real_rows=sampler.real_rows(number), rate=0.1)
    assert next(stream, None) is None  # it took just what belongs to its steps
    return model


def same_weights(a: nn.Module, b: nn.Module, tolerance: float) -> bool:
    return all(torch.allclose(x, y, atol=tolerance) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_no_weight(accumulate: int) -> None:
    sampler = ClassBalancedDistributedSampler(LABELS, seed=0, global_batch=24)
    assert same_weights(train(sampler, accumulate=1), train(sampler, accumulate=accumulate), 1e-6)


def test_accumulation_changes_no_weight_with_a_last_batch_that_is_not_full() -> None:
    sampler = ExactlyOnceSampler(CLIPS, seed=0, global_batch=24)  # 24 + 24 + 2 clips an epoch
    options = {"label_smoothing": 0.1, "clip_norm": 0.5}
    assert same_weights(train(sampler, accumulate=1, **options), train(sampler, accumulate=4, **options), 1e-6)


def test_a_short_last_batch_counts_by_its_real_clips() -> None:
    sampler = ExactlyOnceSampler(CLIPS, seed=0, global_batch=24)
    model, plain = small_model(), small_model()
    step = make_step(model)
    clips = sampler.draws(np.arange(48, 50)).clip
    batch = list(batches(sampler, 1, 3))[2]
    step([batch], step=2, real_rows=sampler.real_rows(2), rate=0.1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    nn.functional.cross_entropy(plain(FEATURES[clips]), torch.from_numpy(LABELS[clips])).backward()
    optimizer.step()
    assert same_weights(model, plain, 1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon", "novograd"])
def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted(optimizer: str) -> None:
    sampler = ClassBalancedDistributedSampler(LABELS, seed=0, global_batch=24)
    model = small_model()
    step = make_step(model, optimizer)
    stream = list(batches(sampler, 1, 4))
    poisoned = Batch(FEATURES[:24] * float("nan"), stream[0].labels, stream[0].weights, stream[0].draws)
    before = [parameter.clone() for parameter in model.parameters()]
    for number in range(2):
        step([poisoned], step=number, real_rows=24, rate=0.1)
    assert all(torch.equal(now, was) for now, was in zip(model.parameters(), before, strict=True))
    figures = step.read(stop=False)
    assert (figures.bad_steps_in_row, figures.skipped_steps) == (2, 2)
    assert np.isnan(figures.loss)
    step([stream[1]], step=2, real_rows=24, rate=0.1)
    assert not any(torch.equal(now, was) for now, was in zip(model.parameters(), before, strict=True))
    figures = step.read(stop=False)
    assert (figures.bad_steps_in_row, figures.skipped_steps) == (0, 0)
    assert np.isfinite(figures.loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon", "novograd"])
def test_a_first_step_that_is_skipped_leaves_no_trace(optimizer: str) -> None:
    sampler = ClassBalancedDistributedSampler(LABELS, seed=0, global_batch=24)
    good = next(batches(sampler, 1, 1))
    bad = Batch(good.features * float("inf"), good.labels, good.weights, good.draws)
    clean, after_bad = small_model(), small_model()
    make_step(clean, optimizer)([good], step=1, real_rows=24, rate=0.1)
    step = make_step(after_bad, optimizer)
    step([bad], step=0, real_rows=24, rate=0.1)
    step([good], step=1, real_rows=24, rate=0.1)
    assert same_weights(clean, after_bad, 0.0)


def test_a_step_that_is_not_finite_leaves_batch_norm_as_it_was() -> None:
    sampler = ClassBalancedDistributedSampler(LABELS, seed=0, global_batch=24)
    good = next(batches(sampler, 1, 1))
    bad = Batch(good.features * float("nan"), good.labels, good.weights, good.draws)
    torch.manual_seed(1)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    statistics = NormStatistics(model)
    step = TrainStep(
        model, build_optimizer(model, TrainConfig()), Accelerator(cpu=True), seed=0, norm_statistics=statistics
    )
    step([good], step=0, real_rows=24, rate=0.1)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    assert any(not torch.equal(buffer, torch.zeros_like(buffer)) for buffer in before.values())
    step([bad], step=1, real_rows=24, rate=0.1)
    assert all(torch.equal(buffer, model.get_buffer(name)) for name, buffer in before.items())
    step([good], step=2, real_rows=24, rate=0.1)
    assert not any(torch.equal(buffer, model.get_buffer(name)) for name, buffer in before.items())


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_no_weight_for_mixed_clips_and_weighted_losses(accumulate: int) -> None:
    sampler = ExactlyOnceSampler(CLIPS, seed=0, global_batch=24)
    share = torch.rand(CLIPS, generator=torch.Generator().manual_seed(3))
    loss = LabelLoss(label_smoothing=0.1, focal_gamma=2.0, class_weights=torch.tensor([0.2, 1.0, 3.0]))

    def trained(parts: int) -> nn.Module:
        model = small_model()
        optimizer = build_optimizer(model, TrainConfig())
        step = TrainStep(model, optimizer, Accelerator(cpu=True), seed=0, loss=loss, accumulate=parts, clip_norm=0.5)
        mixed = (
            replace(one, partner_labels=one.labels.flip(0) * 0 + 1, partner_share=share[one.draws.clip])
            for one in batches(sampler, parts, 10)
        )
        for number in range(10):
            step(mixed, step=number, real_rows=sampler.real_rows(number), rate=0.1)
        return model

    assert same_weights(trained(1), trained(accumulate), 1e-6)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_word_of_no_weight_teaches_nothing_whoever_judges_it(weight: float) -> None:
    """Neither by its label nor by a teacher's answer: words that are not drawn do as well as those that weigh 0."""
    answers = Teacher(small_model(), torch.arange(3), weight=weight, temperature=2.0, hard=False)
    draws = Draws(np.arange(CLIPS), np.arange(CLIPS), np.ones(CLIPS, np.float32))
    weighed = torch.from_numpy(LABELS != 0)

    def trained(loss: LabelLoss, weights: torch.Tensor) -> nn.Module:
        model = small_model(dropout=0.0)
        model[1].weight.data.mul_(1.5)  # type: ignore[union-attr]  # not what the teacher says already
        optimizer = build_optimizer(model, TrainConfig())
        step = TrainStep(model, optimizer, Accelerator(cpu=True), seed=0, loss=loss, teacher=answers)
        one = Batch(FEATURES, torch.from_numpy(LABELS), weights, draws, teacher_features=FEATURES)
        for number in range(3):
            step(iter([one]), step=number, real_rows=CLIPS, rate=0.1)
        return model

    by_word = trained(LabelLoss(class_weights=torch.tensor([0.0, 1.0, 1.0])), torch.ones(CLIPS))
    by_clip = trained(LabelLoss(), weighed.float())
    assert same_weights(by_word, by_clip, 1e-6)
    assert not same_weights(by_word, trained(LabelLoss(), torch.ones(CLIPS)), 1e-6)


def test_an_overflow_of_scaled_gradients_is_skipped_and_lowers_the_scale() -> None:
    """fp16's scaler, whose arithmetic a CPU has as well."""
    sampler = ClassBalancedDistributedSampler(LABELS, seed=0, global_batch=24)
    model, accelerator = small_model(), Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    step = TrainStep(model, build_optimizer(model, TrainConfig()), accelerator, seed=0)
    before = [parameter.clone() for parameter in model.parameters()]
    loud = (replace(one, features=one.features * 100.0) for one in batches(sampler, 1, 200))
    skipped = 0
    for number in range(200):
        step(loud, step=number, real_rows=24, rate=0.1)
        figures = step.read()
        skipped += figures.skipped_steps
        if not figures.skipped_steps:
            break
        assert all(torch.equal(now, was) for now, was in zip(model.parameters(), before, strict=True))
    assert skipped > 0
    assert accelerator.scaler.get_scale() == 2.0 ** (127 - skipped)
    assert figures.gradient_norm < 1e6  # of the gradient itself, not of the scaled one
    assert not any(torch.equal(now, was) for now, was in zip(model.parameters(), before, strict=True))


def test_dropout_depends_on_the_step_and_not_on_what_ran_before() -> None:
    sampler = ClassBalancedDistributedSampler(LABELS, seed=0, global_batch=24)
    batch = next(batches(sampler, 1, 1))
    weights = []
    for draws_before in (0, 7):
        model = small_model(dropout=0.5)
        torch.rand(draws_before)
        make_step(model)([batch], step=5, real_rows=24, rate=0.1)
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_figures_are_means_over_the_real_clips() -> None:
    model = small_model()
    step = make_step(model)
    draws = Draws(np.arange(4), np.array([0, 1, 2, 0]), np.array([1, 1, 1, 0], np.float32))
    labels = torch.from_numpy(LABELS[draws.clip])
    logits = model(FEATURES[draws.clip]).detach()
    step([Batch(FEATURES[draws.clip], labels, torch.from_numpy(draws.weight), draws)], step=0, real_rows=3, rate=0.1)
    figures = step.read(stop=True)
    assert figures.loss == pytest.approx(nn.functional.cross_entropy(logits[:3], labels[:3]).item(), abs=1e-6)
    assert figures.accuracy == pytest.approx((logits[:3].argmax(1) == labels[:3]).double().mean().item())
    assert figures.stop


def test_the_average_forgets_the_first_weights_and_follows_the_decay() -> None:
    model = nn.Linear(1, 1)
    average = MovingAverage(model, decay=0.9)
    expected = 0.0
    for step in range(200):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = float(step) if step == 0 else decay * expected + (1 - decay) * step
    weight = average.module.weight
    assert isinstance(weight, torch.Tensor)
    assert weight.item() == pytest.approx(expected, rel=1e-5)
