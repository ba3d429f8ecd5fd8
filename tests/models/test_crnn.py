"""Promises of CRNN: the published kernels and strides, and the published function, computed step by step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.models import crnn

_PUBLISHED_MELS = {"stream": 20, "S": 10, "M": 10, "L": 10}


def _features(batch: int, frames: int = 49, mels: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + frames)
    return torch.randn(batch, 1, mels, frames, generator=generator)


def _model(size: str, **params) -> crnn.CRNN:
    torch.manual_seed(0)
    return crnn.build(12, mels=_PUBLISHED_MELS[size], size=size, **params)


@pytest.mark.parametrize(
    ("size", "shape", "classifier"),
    [("stream", (2, 256, 43), 256), ("S", (2, 60, 20), 84), ("M", (2, 76, 20), 164), ("L", (2, 136, 20), 188)],
)
def test_convolutions_are_not_padded_and_the_gru_reads_what_they_leave(size, shape, classifier):
    model = _model(size)
    assert model.encode(_features(2, mels=_PUBLISHED_MELS[size])).shape == shape
    assert model.classifier.in_features == classifier


def test_hello_edge_computes_the_published_function():
    """In TensorFlow's order of time and frequency, with torch's cell, frame by frame."""
    model, x = _model("S", dropout=0.0), _features(3, mels=10)
    conv = model.convs[0]
    image = x[:, 0].transpose(1, 2).unsqueeze(1)  # (B, 1, T, F)
    maps = F.relu(F.conv2d(image, conv.weight.transpose(2, 3), conv.bias, stride=(2, 2)))
    assert maps.shape == (3, 48, 20, 4)
    states = [frame.flatten(1) for frame in maps.unbind(2)]
    for layer in range(2):
        cell = torch.nn.GRUCell(states[0].shape[1], 60)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(cell, kind, model.gru.get_parameter(f"{kind}_l{layer}"))
        state, above = torch.zeros(3, 60), []
        for frame in states:
            state = cell(frame, state)
            above.append(state)
        states = above
    torch.testing.assert_close(model.encode(x), torch.stack(states, dim=2), atol=1e-5, rtol=1e-5)
    logits = model.classifier(F.relu(model.dense[0](states[-1])))
    torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)


def test_stream_classifies_the_last_state_through_a_linear_layer_and_one_with_relu():
    model, x = _model("stream").eval(), _features(3)
    last = model.encode(x)[..., -1]
    first, second = model.dense
    assert (first.out_features, second.out_features) == (128, 256)
    torch.testing.assert_close(model(x), model.classifier(F.relu(second(first(last)))))


@pytest.mark.parametrize(("size", "fewest"), [("stream", 7), ("S", 10), ("M", 10), ("L", 10)])
def test_any_number_of_frames_that_the_kernels_leave_something_of(size, fewest):
    model, mels = _model(size), _PUBLISHED_MELS[size]
    assert model.encode(_features(2, fewest, mels)).shape[2] == 1
    for frames in (fewest, 49, 98):
        assert model(_features(2, frames, mels)).shape == (2, 12)
    with pytest.raises(UsageError, match=f"crnn needs {fewest} frames or more, got {fewest - 1}"):
        model(_features(2, fewest - 1, mels))


@pytest.mark.parametrize("size", ["stream", "S"])
def test_dropout_is_for_training_only(size):
    model, x = _model(size, dropout=0.5), _features(2, mels=_PUBLISHED_MELS[size])
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: crnn.build(12, size="XL"), "crnn needs size of stream, S, M, L, got 'XL'"),
        (lambda: crnn.build(12, mels=4), "crnn of size stream needs mels of 5 or more, got 4"),
        (lambda: crnn.build(12, mels=3, size="S"), "crnn of size S needs mels of 4 or more, got 3"),
        (lambda: crnn.build(12, dropout=1.5), "crnn needs dropout of 0 or more and below 1, got 1.5"),
        (
            lambda: crnn.build(12)(_features(2, mels=40)),
            "crnn was built for mels=20, got 40 feature bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
