"""Promises of TC-ResNet: the published layers, and that every layer hears the whole spectrum."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import build


def _features(batch: int, mels: int = 40, frames: int = 98) -> Tensor:
    return torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize(
    ("depth", "width", "channels", "frames"),
    [
        (8, 1.0, [16, 24, 32, 48], [98, 49, 25, 13]),
        (8, 1.5, [24, 36, 48, 72], [98, 49, 25, 13]),
        (14, 1.0, [16, 24, 24, 32, 32, 48, 48], [98, 49, 49, 25, 25, 13, 13]),
    ],
)
def test_channels_and_frames_of_every_block(depth, width, channels, frames):
    model = build("tc_resnet", num_classes=12, depth=depth, width=width)
    x = F.relu(model.head_norm(model.head(_features(2).squeeze(1))))
    shapes = [tuple(x.shape[1:])]
    for block in model.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == list(zip(channels, frames, strict=True))


@pytest.mark.parametrize(("depth", "convolutions"), [(8, 7), (14, 13)])
def test_depth_counts_the_convolutions_and_the_classifier(depth, convolutions):
    model = build("tc_resnet", num_classes=12, depth=depth)
    taps = [module.kernel_size[0] for module in model.modules() if isinstance(module, nn.Conv1d)]
    assert taps.count(3) + taps.count(9) == convolutions == depth - 1
    assert taps.count(1) == 3  # shortcuts, where the channels change


@pytest.mark.parametrize("frames", [97, 98, 99, 100, 101])
def test_it_is_the_published_function_written_with_two_dimensional_convolutions(frames: int):
    torch.manual_seed(0)
    model = build("tc_resnet", num_classes=12, depth=14).eval()

    def conv(x: Tensor, conv: nn.Conv1d, norm: nn.BatchNorm1d) -> Tensor:
        """On (B, C, 1, T), as the published code has it, with the padding that TensorFlow calls SAME."""
        taps, stride = conv.kernel_size[0], conv.stride[0]
        padding = max((math.ceil(x.shape[3] / stride) - 1) * stride + taps - x.shape[3], 0)
        padded = F.pad(x, (padding // 2, padding - padding // 2))
        return norm(F.conv2d(padded, conv.weight.unsqueeze(2), None, (1, stride)).flatten(2)).unsqueeze(2)

    x = _features(3, frames=frames)
    y = F.relu(conv(x.transpose(1, 2), model.head, model.head_norm))
    for block in model.blocks:
        changes = block.conv1.in_channels != block.conv1.out_channels
        shortcut = F.relu(conv(y, block.shortcut, block.shortcut_norm)) if changes else y
        y = F.relu(conv(y, block.conv1, block.norm1))
        y = F.relu(conv(y, block.conv2, block.norm2) + shortcut)
    expected = model.classifier(y.mean(dim=(2, 3)))
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_one_coefficient_reaches_every_channel_of_the_first_layer():
    model = build("tc_resnet", num_classes=12)
    x = torch.zeros(1, 1, 40, 98)
    x[0, 0, 17, 50] = 1.0
    reached = model.head(x.squeeze(1)).abs().sum(dim=2)[0] > 0
    assert reached.all()


def test_the_encoding_is_what_is_pooled_over_time():
    model = build("tc_resnet", num_classes=12).eval()
    x = _features(3, frames=101)
    encoding = model.encode(x)
    assert encoding.shape == (3, 48, 13)
    torch.testing.assert_close(model(x), model.classifier(encoding.mean(dim=2)))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build("tc_resnet", num_classes=12, depth=10), "tc_resnet needs depth of 8 or 14, got 10"),
        (
            lambda: build("tc_resnet", num_classes=12, width=0),
            "tc_resnet needs width of 0.0625 or more (the paper: 1 and 1.5), got 0",
        ),
        (lambda: build("tc_resnet", num_classes=12, mels=0), "tc_resnet needs mels of 1 or more, got 0"),
        (
            lambda: build("tc_resnet", num_classes=12, dropout=-0.1),
            "tc_resnet needs dropout of 0 or more and below 1, got -0.1",
        ),
        (
            lambda: build("tc_resnet", num_classes=12)(_features(2, mels=64)),
            "tc_resnet was built for mels=40, got 64 feature bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
