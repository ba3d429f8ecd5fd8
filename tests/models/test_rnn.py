"""Promises of the LSTM and GRU classifiers: both cells, the state after all frames, and one file plain torch loads."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.rnn import build

CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])


def _features(batch: int = 3, mels: int = 40, frames: int = 98) -> Tensor:
    return torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(batch))


class PlainRNN(nn.Module):
    """The same network as anyone would write it, without this project; takes (B, frames, mels)."""

    def __init__(self, cell: str, num_classes: int, mels: int, hidden: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.rnn = kind(mels, hidden, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.classifier = nn.Linear(hidden * (2 if bidirectional else 1), num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        last = self.rnn(frames)[1]
        last = last[0] if isinstance(last, tuple) else last  # an LSTM also returns its cells
        directions = 2 if self.rnn.bidirectional else 1
        return self.classifier(torch.cat(tuple(last[-directions:]), dim=1))


@CELLS
@DIRECTIONS
def test_the_logits_are_those_of_plain_torch_layers_with_the_same_weights(cell: str, bidirectional: bool) -> None:
    ours = build(30, cell=cell, hidden=16, layers=2, bidirectional=bidirectional).eval()
    plain = PlainRNN(cell, 30, 40, 16, 2, bidirectional)
    plain.load_state_dict(ours.state_dict(), strict=True)
    features = _features()
    torch.testing.assert_close(ours(features), plain(features.squeeze(1).transpose(1, 2)))


def test_a_state_dict_exported_to_one_file_is_loaded_by_plain_torch(tmp_path) -> None:
    ours = build(10, hidden=64, bidirectional=True).eval()
    torch.save(ours.state_dict(), tmp_path / "bilstm.pt")
    save_file(ours.state_dict(), tmp_path / "bilstm.safetensors")
    features = _features()
    for weights in (
        torch.load(tmp_path / "bilstm.pt", weights_only=True),
        load_file(tmp_path / "bilstm.safetensors"),
    ):
        plain = PlainRNN("lstm", 10, 40, 64, 2, True)
        plain.load_state_dict(weights, strict=True)
        torch.testing.assert_close(plain(features.squeeze(1).transpose(1, 2)), ours(features))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"cell": "lstm"}, 4 * 128 * (40 + 128 + 2) + 4 * 128 * (128 + 128 + 2) + 129 * 30),
        ({"cell": "gru"}, 3 * 128 * (40 + 128 + 2) + 3 * 128 * (128 + 128 + 2) + 129 * 30),
        ({"bidirectional": True}, 2 * 4 * 128 * (40 + 128 + 2) + 2 * 4 * 128 * (256 + 128 + 2) + 257 * 30),
        ({"mels": 64, "layers": 1}, 4 * 128 * (64 + 128 + 2) + 129 * 30),
    ],
)
def test_sizes_are_those_of_the_gates(params, expected: int) -> None:
    assert sum(param.numel() for param in build(30, **params).parameters()) == expected


@CELLS
def test_both_directions_have_read_every_frame(cell: str) -> None:
    """An error that is often made: of the backward states, the last frame's has seen one frame only."""
    model = build(5, cell=cell, hidden=8, layers=1, bidirectional=True).eval()
    nn.init.zeros_(model.classifier.weight[:, :8])  # only the backward direction is heard
    features = _features(1).requires_grad_()
    model(features).square().sum().backward()
    assert features.grad is not None
    reached = features.grad.abs().sum(dim=(0, 1, 2))  # (frames,)
    assert reached[0] > 0
    assert (reached[:40] > 0).all()


def test_encode_gives_the_sequence_of_which_the_last_state_is_taken() -> None:
    model = build(5, hidden=8, layers=2).eval()
    features = _features()
    states = model.encode(features)
    assert states.shape == (3, 8, 98)
    torch.testing.assert_close(model.classifier(states[:, :, -1]), model(features))
    # What comes later changes no state of a network that reads forwards.
    changed = features.clone()
    changed[..., 60:] += 1
    torch.testing.assert_close(model.encode(changed)[..., :60], states[..., :60])
    assert build(5, hidden=8, bidirectional=True).encode(features).shape == (3, 16, 98)


def test_dropout_acts_between_layers_and_before_the_classifier_in_training_only() -> None:
    model, features = build(5, hidden=32, layers=1, dropout=0.5), _features()
    assert not torch.equal(model(features), model(features))
    model.eval()
    assert torch.equal(model(features), model(features))


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"cell": "rnn"}, "rnn needs cell of lstm or gru, got rnn"),
        ({"hidden": 0}, "rnn needs hidden of 1 or more, got 0"),
        ({"layers": 0}, "rnn needs layers of 1 or more, got 0"),
        ({"dropout": 1.0}, "rnn needs dropout of 0 or more and below 1, got 1"),
    ],
)
def test_a_wrong_parameter_is_one_clear_sentence(params, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(5, **params)
    assert str(caught.value) == sentence


def test_a_wrong_number_of_bins_is_one_clear_sentence() -> None:
    with pytest.raises(UsageError, match="rnn was built for mels=20, got 40 mel bins"):
        build(5, mels=20)(_features())


def test_an_lstm_begins_by_remembering_and_a_gru_as_torch_makes_it() -> None:
    """A forget gate of 0.5 would leave nothing of a word in the middle of the clip (Jozefowicz et al., 2015)."""
    rnn = build(5, hidden=16, layers=2, bidirectional=True).rnn
    for layer in (f"l{number}{direction}" for number in range(2) for direction in ("", "_reverse")):
        biases = getattr(rnn, f"bias_ih_{layer}") + getattr(rnn, f"bias_hh_{layer}")
        assert torch.equal(biases[16:32], torch.ones(16))  # torch's order: input, forget, cell, output
        assert (biases[:16] != 1).all()
    torch.manual_seed(1)
    ours = build(5, cell="gru", hidden=16, layers=1).rnn
    torch.manual_seed(1)
    plain = nn.GRU(40, 16, batch_first=True)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
