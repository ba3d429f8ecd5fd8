"""Recurrent keyword model as simple as it gets: frames -> stacked LSTM or GRU -> last state -> linear.

Two unidirectional layers of 128 units are those of the keyword spotter of Microsoft's Embedded Learning Library
(tutorial "Training an audio keyword spotter with PyTorch", for the 30 words of Speech Commands v0.01), which classifies
every frame and averages the logarithms of the probabilities, where here the last state alone is classified. Two
bidirectional layers of LSTM are the usual BiLSTM classifier (Graves and Schmidhuber, 2005). The input is not
normalised here: gates saturate on raw log-mels or MFCCs, so train with `--features.normalize dataset` or `clip`.
"""

import torch
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.keras_start import open_forget_gates

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def build(
    num_classes: int,
    *,
    mels: int = 40,
    cell: str = "lstm",
    hidden: int = 128,
    layers: int = 2,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """An LSTM or GRU classifier; the defaults have about 221 k parameters, `bidirectional=True` about 572 k.

    Args:
        num_classes: width of the logits.
        mels: feature bins per frame; of MFCC, the number of coefficients.
        cell: `lstm` or `gru`.
        hidden: units of each layer and direction.
        layers: stacked layers.
        bidirectional: also read the clip backwards (not for streaming).
        dropout: share of activations dropped between layers and before the classifier, in training.
    """
    if cell not in _CELLS:
        raise UsageError(f"rnn needs cell of {' or '.join(_CELLS)}, got {cell}")
    for flag, value in {"mels": mels, "hidden": hidden, "layers": layers}.items():
        if value < 1:
            raise UsageError(f"rnn needs {flag} of 1 or more, got {value}")
    if not 0 <= dropout < 1:
        raise UsageError(f"rnn needs dropout of 0 or more and below 1, got {dropout:g}")
    return RNNClassifier(num_classes, mels, cell, hidden, layers, bidirectional, dropout)


class RNNClassifier(nn.Module):
    """(B, 1, mels, frames) -> (B, num_classes), for any number of frames."""

    def __init__(
        self, num_classes: int, mels: int, cell: str, hidden: int, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        self.rnn = _CELLS[cell](
            mels,
            hidden,
            num_layers=layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        open_forget_gates(self.rnn)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden * (2 if bidirectional else 1), num_classes)

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, width, frames): the top layer's states, forwards ones first."""
        mels = features.shape[2]
        if mels != self.rnn.input_size:
            raise UsageError(f"rnn was built for mels={self.rnn.input_size}, got {mels} mel bins")
        frames = features.squeeze(1).transpose(1, 2).contiguous()
        return self.rnn(frames)[0].transpose(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes)."""
        return self.classifier(self.dropout(last_state(self.encode(features), self.rnn.hidden_size)))


def last_state(states: Tensor, hidden: int) -> Tensor:
    """(B, width, frames) -> (B, width): what each direction, `hidden` units wide, knows after it has read all frames.

    The backward direction has then arrived at the first frame; in the last one it has seen nothing else.
    """
    return torch.cat((states[:, :hidden, -1], states[:, hidden:, 0]), dim=1)
