"""What is minimised is what the papers say, clip by clip."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kws_dist.config import load_text
from kws_dist.data.sampler import Draws
from kws_dist.data.workers import Batch
from kws_dist.shards.read import Rows
from kws_dist.training.draws import class_weights
from kws_dist.training.losses import LabelLoss, Teacher

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def batch(partner_labels: Tensor | None = None, partner_share: Tensor | None = None) -> Batch:
    draws = Draws(np.arange(6), np.arange(6), np.ones(6, np.float32))
    return Batch(torch.zeros(6, 1, 1, 1), LABELS, torch.ones(6), draws, partner_labels, partner_share)


def test_without_settings_it_is_cross_entropy() -> None:
    assert torch.equal(LabelLoss()(LOGITS, batch()), F.cross_entropy(LOGITS, LABELS, reduction="none"))


def test_focal_loss_is_its_equation() -> None:
    probability = LOGITS.softmax(1)[torch.arange(6), LABELS]
    expected = -((1 - probability) ** 1.5) * probability.log()
    torch.testing.assert_close(LabelLoss(focal_gamma=1.5)(LOGITS, batch()), expected)


def test_focal_loss_leaves_smoothing_what_it_asks_for_the_other_words() -> None:
    """The surer of the label, the smaller is a focal loss; smoothing bounds that, and must go on doing so."""
    sure = torch.tensor([[4.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [19.0, 0.0, 0.0, 0.0]])
    draws = Draws(np.arange(3), np.arange(3), np.ones(3, np.float32))
    zeros = Batch(torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64), torch.ones(3), draws)
    for gamma in (0.0, 2.0):
        losses = LabelLoss(label_smoothing=0.1, focal_gamma=gamma)(sure, zeros)
        assert losses[0] < losses[1] < losses[2]
    alone = LabelLoss(focal_gamma=2.0)(sure, zeros)
    assert alone[0] > alone[1] > alone[2]


def test_focal_loss_with_smoothing_is_the_equation_for_each_word_of_the_smoothed_target() -> None:
    probability = LOGITS.softmax(1)
    target = F.one_hot(LABELS, 4) * 0.9 + 0.1 / 4
    expected = -(target * (1 - probability) ** 1.5 * probability.log()).sum(1)
    torch.testing.assert_close(LabelLoss(focal_gamma=1.5, label_smoothing=0.1)(LOGITS, batch()), expected)


def test_focal_loss_has_a_gradient_where_the_model_is_sure() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0, 0.0]]).expand(6, 4).clone().requires_grad_()
    LabelLoss(focal_gamma=0.5)(logits, batch()).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_mixed_clip_counts_for_both_labels_by_their_shares() -> None:
    others, share = LABELS.roll(1), torch.linspace(0, 1, 6)
    mixed = LabelLoss(label_smoothing=0.1)(LOGITS, batch(others, share))
    target = F.one_hot(LABELS, 4) * (1 - share)[:, None] + F.one_hot(others, 4) * share[:, None]
    smooth = target * 0.9 + 0.1 / 4
    torch.testing.assert_close(mixed, -(smooth * LOGITS.log_softmax(1)).sum(1))


def rows(counts: list[int]) -> Rows:
    label = np.repeat(np.arange(len(counts)), counts)
    nothing = np.zeros(len(label), np.int64)
    values = dict.fromkeys(Rows.__dataclass_fields__, nothing)
    return Rows(**{**values, "label": label})  # type: ignore[arg-type]


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balanced_class_weights_make_each_word_count_the_same(balance: float) -> None:
    counts = [10, 20, 70]
    config = load_text(f"data: {{balance: {balance}}}\ntrain: {{class_weights: balanced}}", name="test")
    weights = class_weights(config, rows(counts), ["a", "b", "c"])
    assert weights is not None
    share = np.array(counts) ** (1 - balance)
    share /= share.sum()
    assert weights.numpy() * share == pytest.approx([1 / 3] * 3, rel=1e-6)


def test_class_weights_scale_the_losses_of_their_words() -> None:
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5])
    plain, weighted = LabelLoss()(LOGITS, batch()), LabelLoss(class_weights=weights)(LOGITS, batch())
    torch.testing.assert_close(weighted, plain * weights[LABELS])


def test_other_losses_of_a_clip_are_weighted_by_its_words_as_well() -> None:
    weights, losses = torch.tensor([1.0, 2.0, 0.0, 0.5]), torch.arange(6.0)
    others, share = LABELS.roll(1), torch.linspace(0, 1, 6)
    assert torch.equal(LabelLoss().weighted(losses, batch()), losses)
    one = LabelLoss(class_weights=weights)
    assert torch.equal(one.weighted(losses, batch()), losses * weights[LABELS])
    mixed = weights[LABELS] * (1 - share) + weights[others] * share
    torch.testing.assert_close(one.weighted(losses, batch(others, share)), losses * mixed)


def teacher(*, hard: bool = False, temperature: float = 2.0) -> Teacher:
    order = torch.tensor([3, 0, 1])  # the student's words among the teacher's four
    return Teacher(nn.Linear(5, 4), order, weight=0.5, temperature=temperature, hard=hard)


def test_a_teacher_answers_in_the_words_of_the_student() -> None:
    one, features = teacher(), torch.randn(6, 5)
    torch.testing.assert_close(one(features), one.model(features)[:, [3, 0, 1]])
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_a_soft_answer_costs_nothing_where_the_student_agrees_and_pulls_it_there() -> None:
    one, answer = teacher(), torch.randn(6, 3)
    torch.testing.assert_close(one.losses(answer + 7.0, answer), torch.zeros(6), atol=1e-6, rtol=0)
    logits = torch.zeros(6, 3, requires_grad=True)
    one.losses(logits, answer).sum().backward()
    assert logits.grad is not None
    expected = 2.0 * (
        torch.full((6, 3), 1 / 3) - (answer / 2.0).softmax(1)
    )  # T times the difference of softened shares
    torch.testing.assert_close(logits.grad, expected)


def test_a_hard_answer_is_a_label() -> None:
    one, answer, logits = teacher(hard=True), torch.randn(6, 3), torch.randn(6, 3)
    expected = F.cross_entropy(logits, answer.argmax(1), reduction="none")
    torch.testing.assert_close(one.losses(logits, answer), expected)
