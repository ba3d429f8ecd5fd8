"""Promises of DS-CNN: the published layers, and the memory that the paper gives for them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import build

# Size, KB of weights and maps (arXiv 1711.07128), channels, map after each layer for 10 coefficients x 49 frames.
SIZES = [
    ("S", 38.6, 64, [(5, 25)] * 5),
    ("M", 189.2, 172, [(10, 25)] + [(5, 13)] * 4),
    ("L", 497.6, 276, [(10, 25)] + [(5, 13)] * 5),
]


def _features(batch: int, coefficients: int = 10, frames: int = 49) -> Tensor:
    return torch.randn(batch, 1, coefficients, frames, generator=torch.Generator().manual_seed(batch))


def _maps(model: nn.Module, features: Tensor) -> list[torch.Size]:
    """Shapes, without the batch, after the first convolution and after each separable one."""
    shapes: list[torch.Size] = []
    layers = [model.get_submodule("head"), *model.get_submodule("blocks").children()]
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape[1:]))
    model(features)
    return shapes


@pytest.mark.parametrize(("size", "kilobytes", "channels", "maps"), SIZES)
def test_maps_are_as_large_as_published(size, kilobytes, channels, maps):
    del kilobytes
    model = build("ds_cnn", num_classes=12, size=size)
    assert _maps(model, _features(2)) == [(channels, *shape) for shape in maps]


@pytest.mark.parametrize(("size", "kilobytes", "channels", "maps"), SIZES)
def test_memory_with_8_bits_is_as_published(size, kilobytes, channels, maps):
    model = build("ds_cnn", num_classes=12, size=size)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    weights = sum(parameter.numel() for parameter in model.parameters()) - sum(n.num_features for n in norms)
    map_sizes = [channels * height * width for height, width in maps]
    largest_pair = max(map(sum, itertools.pairwise(map_sizes)))
    assert round((weights + largest_pair) / 1000, 1) == kilobytes


def test_it_computes_what_tensorflow_does_with_same_padding():
    torch.manual_seed(0)
    model = build("ds_cnn", num_classes=12, size="S").eval()
    x = _features(3)

    def same(x: Tensor, conv: nn.Module) -> Tensor:
        """TensorFlow's SAME: as few zeros as give ceil(size / stride), the odd one behind."""
        assert isinstance(conv, nn.Conv2d)
        pads = []
        for size, taps, stride in zip(x.shape[:1:-1], conv.kernel_size[::-1], conv.stride[::-1], strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + taps - size)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), conv.weight, None, conv.stride, 0, 1, conv.groups)

    y = F.relu(model.head_norm(same(x, model.head)))
    for block in model.blocks:
        y = F.relu(block.depthwise_norm(same(y, block.depthwise)))
        y = F.relu(block.pointwise_norm(same(y, block.pointwise)))
    torch.testing.assert_close(model(x), model.classifier(y.mean(dim=(2, 3))), atol=1e-5, rtol=1e-5)


def test_the_encoding_pools_frequency_only_and_the_mean_over_time_is_what_is_classified():
    model = build("ds_cnn", num_classes=12, size="M").eval()
    x = _features(3)
    encoding = model.encode(x)
    assert encoding.shape == (3, 172, 13)
    torch.testing.assert_close(model(x), model.classifier(encoding.mean(dim=2)))


def test_dropout_is_mlperf_tinys():
    """Behind the first convolution, and of the single activations of the last maps, before these are averaged."""
    model = build("ds_cnn", num_classes=12, dropout=0.4)
    dropped: list[tuple[float, torch.Size]] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, _, maps: dropped.append((module.p, maps.shape)))
    first, second = model(_features(4)), model(_features(4))
    assert dropped[:2] == [(0.2, (4, 64, 5, 25)), (0.4, (4, 64, 5, 25))]
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"size": "XL"}, "ds_cnn needs size of S, M, L, got XL"),
        ({"dropout": 1.0}, "ds_cnn needs dropout of 0 or more and below 1, got 1.0"),
    ],
)
def test_wrong_use_is_one_clear_sentence(params, sentence):
    with pytest.raises(UsageError) as caught:
        build("ds_cnn", num_classes=12, **params)
    assert str(caught.value) == sentence
