"""Promises of Res8, Res15 and Res26: the published layers, dilation and pooling."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import build


def _features(batch: int, coefficients: int = 40, frames: int = 101) -> Tensor:
    return torch.randn(batch, 1, coefficients, frames, generator=torch.Generator().manual_seed(batch))


def _convs(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_dilation_of_res15_doubles_every_third_layer_and_ends_at_16():
    dilations = [conv.dilation for conv in _convs(build("res15", num_classes=12))[1:]]
    assert dilations == [(d, d) for d in (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16)]


@pytest.mark.parametrize("depth", [8, 15, 26])
def test_depth_counts_the_convolutions_and_the_classifier(depth):
    convs = _convs(build("res15", num_classes=12, depth=depth))
    assert len(convs) == depth - 1
    assert all(conv.kernel_size == (3, 3) and conv.bias is None for conv in convs)


@pytest.mark.parametrize(("depth", "frames"), [(15, 101), (8, 25), (26, 50)])
def test_only_the_undilated_ones_pool_and_time_is_halved_or_quartered(depth, frames):
    model = build("res15", num_classes=12, depth=depth, narrow=True)
    assert model.encode(_features(2)).shape == (2, 19, frames)


@pytest.mark.parametrize("depth", [8, 15])
def test_it_is_the_published_function(depth):
    torch.manual_seed(0)
    model = build("res15", num_classes=12, depth=depth, narrow=True).eval()
    first, *others = _convs(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    x = _features(3)

    # Layers are counted from 0, the first: each even one adds what the one two before it gave, before its norm.
    y = F.relu(first(x))
    before = y = F.avg_pool2d(y, (3, 4)) if depth == 8 else y
    for layer, (conv, norm) in enumerate(zip(others, norms, strict=True), start=1):
        y = F.relu(conv(y))
        if layer % 2 == 0:
            y = before = y + before
        y = norm(y)
    torch.testing.assert_close(model(x), model.classifier(y.mean(dim=(2, 3))), atol=1e-5, rtol=1e-5)


def test_batch_norms_have_no_weights():
    norms = [m for m in build("res15", num_classes=12).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 13
    assert not any(norm.affine for norm in norms)


def test_res15_sees_125_frames_so_all_of_a_second_from_its_middle():
    model = build("res15", num_classes=12, narrow=True).eval()
    x = torch.randn(1, 1, 9, 161, requires_grad=True)
    model.encode(x)[0, :, 80].sum().backward()
    frames = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert (frames.min(), frames.max()) == (80 - 62, 80 + 62)


def test_gradients_in_bf16_are_those_of_fp32():
    torch.manual_seed(0)
    model = build("res15", num_classes=6, narrow=True)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(_features(6))
        F.cross_entropy(logits.float(), torch.arange(6)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.95


def test_wrong_use_is_one_clear_sentence():
    with pytest.raises(UsageError) as caught:
        build("res15", num_classes=12, depth=14)
    assert str(caught.value) == "res15 needs depth of 8, 15 or 26, got 14"
