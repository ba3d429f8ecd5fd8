"""Promises of CNN4: four named blocks, an average over any map that survives them, and clear refusals."""

import pytest
import torch
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.cnn4 import build


def _features(batch: int = 3, mels: int = 40, frames: int = 101) -> Tensor:
    return torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(mels + frames))


def test_it_is_four_blocks_of_convolution_batch_norm_relu_and_max_pool() -> None:
    blocks = build(10).blocks
    assert [[type(layer) for layer in block] for block in blocks] == [
        [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    ] * 4
    shapes = [tuple(block[0].weight.shape) for block in blocks]
    assert shapes == [(32, 1, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3)]


@pytest.mark.parametrize("channels", [16, 32])
def test_the_size_is_that_of_its_layers(channels: int) -> None:
    c = channels
    convs = 9 * (c + c * 2 * c + 2 * c * 4 * c + 4 * c * 4 * c)
    norms = 2 * (c + 2 * c + 4 * c + 4 * c)
    expected = convs + norms + (4 * c + 1) * 10
    assert sum(param.numel() for param in build(10, channels=c).parameters()) == expected


def test_the_size_does_not_depend_on_the_features() -> None:
    model = build(10, channels=8).eval()
    for mels in (16, 17, 40, 64, 80, 129):
        for frames in (16, 49, 98, 101, 201):
            assert model(_features(2, mels, frames)).shape == (2, 10)


def test_the_pooling_is_torch_s_adaptive_average_over_bins_and_frames() -> None:
    model, features = build(10), _features(6)
    model(features)  # running statistics away from their start
    model.eval()
    plain = nn.Sequential(*model.blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier)
    torch.testing.assert_close(model(features), plain(features))


@pytest.mark.parametrize(("mels", "frames", "left"), [(40, 101, 6), (64, 101, 6), (40, 49, 3), (16, 16, 1)])
def test_encode_gives_the_sequence_before_the_average_over_time(mels: int, frames: int, left: int) -> None:
    model, features = build(10).eval(), _features(2, mels, frames)
    encoded = model.encode(features)
    assert encoded.shape == (2, 128, left)
    torch.testing.assert_close(model.classifier(encoded.mean(dim=2)), model(features))


@pytest.mark.parametrize(("mels", "frames"), [(15, 101), (40, 15), (1, 8000)])
def test_a_map_that_four_halvings_use_up_is_refused(mels: int, frames: int) -> None:
    with pytest.raises(UsageError) as caught:
        build(10, channels=4)(_features(1, mels, frames))
    assert str(caught.value) == (
        f"cnn4 halves the map four times and needs 16 bins and 16 frames or more, got {mels} bins and {frames} frames"
    )


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"channels": 0}, "cnn4 needs channels of 1 or more, got 0"),
        ({"dropout": 1.5}, "cnn4 needs dropout of 0 or more and below 1, got 1.5"),
    ],
)
def test_a_wrong_parameter_is_one_clear_sentence(params, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(10, **params)
    assert str(caught.value) == sentence
