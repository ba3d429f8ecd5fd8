"""Promises of the CNN-LSTM: two strided convolutions, a 2-layer LSTM on what they leave, the last state."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.cnn_lstm import build


def _features(batch: int = 3, mels: int = 129, frames: int = 101) -> Tensor:
    return torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(frames))


def test_it_is_two_strided_convolutions_and_a_two_layer_lstm() -> None:
    modules = list(build(10).modules())
    convs = [module for module in modules if isinstance(module, nn.Conv2d)]
    (lstm,) = [module for module in modules if isinstance(module, nn.LSTM)]
    assert [conv.stride for conv in convs] == [(2, 2), (2, 2)]
    assert [tuple(conv.weight.shape) for conv in convs] == [(16, 1, 5, 5), (16, 16, 5, 5)]
    assert lstm.num_layers == 2
    assert not lstm.bidirectional
    assert lstm.input_size == 16 * 33  # channels x a quarter of 129 bins


def test_the_size_is_that_of_its_layers() -> None:
    convs = 25 * 16 + 2 * 16 + 25 * 16 * 16 + 2 * 16
    lstm = 4 * 128 * (16 * 33 + 128 + 2) + 4 * 128 * (128 + 128 + 2)
    assert sum(param.numel() for param in build(10).parameters()) == convs + lstm + 129 * 10


def test_the_logits_are_those_of_plain_functions() -> None:
    model, features = build(10, hidden=16), _features(6)
    model(features)  # running statistics away from their start
    model.eval()
    x = features
    for conv, norm, _ in model.convs:
        x = F.conv2d(x, conv.weight, stride=2, padding=2)
        x = F.relu((x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt())
    steps = torch.stack([frame.reshape(6, -1) for frame in x.unbind(3)], dim=1)  # all channels and bins of a frame
    _, (last, _) = model.lstm(steps)
    torch.testing.assert_close(model(features), model.classifier(last[-1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("frames", "left"), [(98, 25), (101, 26), (104, 26), (201, 51), (1, 1)])
def test_the_sequence_is_a_quarter_as_long(frames: int, left: int) -> None:
    model, features = build(10).eval(), _features(2, frames=frames)
    states = model.encode(features)
    assert states.shape == (2, 128, left)
    torch.testing.assert_close(model.classifier(states[:, :, -1]), model(features))


@pytest.mark.parametrize("mels", [1, 40, 64, 128, 129, 201, 257])
def test_any_number_of_bins_will_do(mels: int) -> None:
    assert build(10, mels=mels)(_features(2, mels=mels)).shape == (2, 10)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build(10, channels=0), "cnn_lstm needs channels of 1 or more, got 0"),
        (lambda: build(10, hidden=-1), "cnn_lstm needs hidden of 1 or more, got -1"),
        (lambda: build(10, layers=0), "cnn_lstm needs layers of 1 or more, got 0"),
        (lambda: build(10, mels=0), "cnn_lstm needs mels of 1 or more, got 0"),
        (lambda: build(10, dropout=-0.5), "cnn_lstm needs dropout of 0 or more and below 1, got -0.5"),
        (lambda: build(10)(_features(mels=128)), "cnn_lstm was built for mels=129, got 128 feature bins"),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
