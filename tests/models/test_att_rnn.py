"""Promises of Att-RNN: the published function, computed step by step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.models import att_rnn


def _features(batch: int, frames: int = 126, mels: int = 80) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + frames)
    return torch.randn(batch, 1, mels, frames, generator=generator)


def _model(**params) -> att_rnn.AttRNN:
    """In eval, with running statistics away from their start."""
    torch.manual_seed(0)
    model = att_rnn.build(12, **params)
    model(_features(6, mels=model.mels))
    return model.eval()


def _plain_lstm(lstm: torch.nn.LSTM, x: Tensor, layer: int, *, reverse: bool) -> Tensor:
    """One layer and direction, frame by frame, with one bias: the sum of torch's two."""
    suffix = f"l{layer}" + ("_reverse" if reverse else "")
    weights = [lstm.get_parameter(f"{kind}_{suffix}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    bias = weights[2] + weights[3]
    hidden = cell = x.new_zeros(x.shape[0], weights[1].shape[1])
    states = []
    for frame in reversed(x.unbind(1)) if reverse else x.unbind(1):
        gates = frame @ weights[0].t() + hidden @ weights[1].t() + bias
        let_in, forget, new, show = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states[::-1] if reverse else states, dim=1)


def test_it_computes_the_published_function():
    model, x = _model(mels=8), _features(3, frames=21, mels=8)
    convs = model.convs
    y = x
    for conv, norm in ((convs.conv1, convs.norm1), (convs.conv2, convs.norm2)):
        y = norm(F.relu(F.conv2d(F.pad(y, (2, 2)), conv.weight, conv.bias)))
    states = y[:, 0].transpose(1, 2)
    for layer in range(2):
        both = [_plain_lstm(model.lstm, states, layer, reverse=reverse) for reverse in (False, True)]
        states = torch.cat(both, dim=2)
    torch.testing.assert_close(model.encode(x), states.transpose(1, 2), atol=1e-5, rtol=1e-5)

    query = model.attention.query(states[:, 10])  # of 21 frames, 0 to 20, the middle one
    weights = torch.stack([(clip @ question).softmax(0) for clip, question in zip(states, query, strict=True)])
    found = torch.stack([share @ clip for clip, share in zip(states, weights, strict=True)])
    logits = model.classifier(model.dense2(F.relu(model.dense1(found))))
    torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)


def test_convolutions_run_along_time_and_treat_all_bins_alike():
    model, x = _model(), _features(2)
    order = torch.randperm(80)
    torch.testing.assert_close(model.convs(x)[..., order], model.convs(x[:, :, order]), atol=1e-5, rtol=1e-5)
    changed = x.clone()
    changed[..., 60] += 1
    differs = (model.convs(changed) - model.convs(x)).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.nonzero().flatten().tolist() == list(range(56, 65))  # two convolutions over 5 frames


@pytest.mark.parametrize("frames", [1, 49, 126, 200])
def test_any_number_of_frames(frames):
    model = _model()
    assert model.encode(_features(2, frames)).shape == (2, 128, frames)
    assert model(_features(2, frames)).shape == (2, 12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: att_rnn.build(12, mels=0), "att_rnn needs mels of 1 or more, got 0"),
        (lambda: att_rnn.build(12, hidden=-1), "att_rnn needs hidden of 1 or more, got -1"),
        (lambda: att_rnn.build(12, dropout=1.0), "att_rnn needs dropout of 0 or more and below 1, got 1.0"),
        (
            lambda: att_rnn.build(12)(_features(2, mels=40)),
            "att_rnn was built for mels=80, got 40 feature bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
