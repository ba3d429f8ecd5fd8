"""Promises of MHAtt-RNN: the published layers, and the published function, computed step by step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import mhatt_rnn


def _features(batch: int, frames: int = 49, mels: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + frames)
    return torch.randn(batch, 1, mels, frames, generator=generator)


def _model(**params) -> mhatt_rnn.MHAttRNN:
    """In eval, with running statistics away from their start."""
    torch.manual_seed(0)
    model = mhatt_rnn.build(12, **params)
    model(_features(6, mels=model.mels))
    return model.eval()


def test_layers_have_the_published_sizes():
    model = mhatt_rnn.build(12, mels=40, second_dense=0)

    def size(module: nn.Module) -> int:
        return sum(param.numel() for param in module.parameters())

    assert size(model.convs.conv1) == 60
    assert size(model.convs.conv2) == 51
    assert size(model.gru) == 130_560 + 296_448
    assert size(model.attention) == 4 * 65_792
    assert size(model.dense1) == 65_600
    assert size(model.classifier) == 780


def test_heads_are_separate_dense_layers_that_ask_with_the_middle_frame():
    model, x = _model(heads=3, hidden=6), _features(4, frames=30)
    states = model.encode(x).transpose(1, 2)  # (B, T, D)
    found = []
    for head in range(3):
        rows = slice(12 * head, 12 * (head + 1))
        dense = model.attention.query
        query = F.linear(states[:, 15], dense.weight[rows], dense.bias[rows])
        weights = torch.einsum("bd,btd->bt", query, states).softmax(dim=1)
        found.append(torch.einsum("bt,btd->bd", weights, states))
    joined = torch.cat(found, dim=1)
    logits = model.classifier(model.dense2(F.relu(model.dense1(joined))))
    torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)


def test_states_are_those_of_two_bidirectional_gru_layers_with_reset_after_the_product():
    model, x = _model(hidden=6), _features(2, frames=12)
    states = model.convs(x)
    for layer in range(2):
        states = torch.cat([_plain_gru(model.gru, states, f"l{layer}{end}") for end in ("", "_reverse")], dim=2)
    torch.testing.assert_close(model.encode(x), states.transpose(1, 2), atol=1e-5, rtol=1e-5)


def _plain_gru(gru: nn.GRU, x: Tensor, suffix: str) -> Tensor:
    """One layer and direction, frame by frame, as Keras computes it with `reset_after`."""
    of_input, of_state = (gru.get_parameter(f"weight_{kind}_{suffix}") for kind in ("ih", "hh"))
    bias, second_bias = (gru.get_parameter(f"bias_{kind}_{suffix}") for kind in ("ih", "hh"))
    frames = x.flip(1).unbind(1) if suffix.endswith("reverse") else x.unbind(1)
    state = x.new_zeros(x.shape[0], of_state.shape[1])
    states = []
    for frame in frames:
        reset, keep, new = (frame @ of_input.t() + bias).chunk(3, dim=1)
        reset_too, keep_too, new_too = (state @ of_state.t() + second_bias).chunk(3, dim=1)
        kept = (keep + keep_too).sigmoid()
        state = kept * state + (1 - kept) * (new + (reset + reset_too).sigmoid() * new_too).tanh()
        states.append(state)
    joined = torch.stack(states, dim=1)
    return joined.flip(1) if suffix.endswith("reverse") else joined


@pytest.mark.parametrize("frames", [1, 49, 98])
def test_any_number_of_frames(frames):
    model = _model()
    assert model.encode(_features(2, frames)).shape == (2, 256, frames)
    assert model(_features(2, frames)).shape == (2, 12)


def test_dropout_drops_what_attention_found_in_training_only():
    model, x = _model(dropout=0.5), _features(2)
    assert torch.equal(model(x), model(x))
    model.dropout.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mhatt_rnn.build(12, mels=0), "mhatt_rnn needs mels of 1 or more, got 0"),
        (lambda: mhatt_rnn.build(12, heads=0), "mhatt_rnn needs heads of 1 or more, got 0"),
        (lambda: mhatt_rnn.build(12, second_dense=-1), "mhatt_rnn needs second_dense of 0 (none) or more, got -1"),
        (lambda: mhatt_rnn.build(12, dropout=-0.1), "mhatt_rnn needs dropout of 0 or more and below 1, got -0.1"),
        (
            lambda: mhatt_rnn.build(12)(_features(2, mels=40)),
            "mhatt_rnn was built for mels=20, got 40 feature bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
