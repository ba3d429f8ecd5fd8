"""MHAtt-RNN: Att-RNN with GRUs, twice as wide, and four questions instead of one.

Rybakov et al., arXiv 2005.06720; google-research, kws_streaming/models/att_mh_rnn.py. Four heads, each
with its own dense layer for the query of the middle frame, attend to the states as they are.

Parameters: published are 743 k for 20 MFCC and dense layers of 64 and 32 (the paper), and 756,711 for 40 MFCC and one
dense layer of 64 (`second_dense=0`; ARM-software/keyword-transformer, model_summary.txt of att_mh_rnn_1, the teacher
of its distillation). Keras includes the 22 statistics of the batch norms; without them both counts are met exactly,
because its GRU has two biases, as torch's.

Weights and norms begin as Keras's, in which it was trained.

B = batch, T = frames, D = width of the recurrent states.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.att_rnn import MiddleAttention, TimeConvs
from kws_dist.models.keras_start import begin_as_keras


def build(
    num_classes: int,
    *,
    mels: int = 20,
    hidden: int = 128,
    heads: int = 4,
    second_dense: int = 32,
    dropout: float = 0.2,
) -> nn.Module:
    """MHAtt-RNN; the paper has the defaults.

    Args:
        num_classes: width of the logits.
        mels: feature bins (or cepstral coefficients) per frame.
        hidden: units of each GRU layer and direction.
        heads: questions that attention asks.
        second_dense: units of the second dense layer; 0 is none.
        dropout: share of what attention found that is dropped in training.
    """
    for flag, value in {"mels": mels, "hidden": hidden, "heads": heads}.items():
        if value < 1:
            raise UsageError(f"mhatt_rnn needs {flag} of 1 or more, got {value}")
    if second_dense < 0:
        raise UsageError(f"mhatt_rnn needs second_dense of 0 (none) or more, got {second_dense}")
    if not 0 <= dropout < 1:
        raise UsageError(f"mhatt_rnn needs dropout of 0 or more and below 1, got {dropout}")
    return MHAttRNN(num_classes, mels, hidden, heads, second_dense, dropout)


class MHAttRNN(nn.Module):
    """(B, 1, mels, T) -> (B, num_classes), for any number of frames."""

    def __init__(self, num_classes: int, mels: int, hidden: int, heads: int, second_dense: int, dropout: float) -> None:
        super().__init__()
        self.mels = mels
        self.convs = TimeConvs()
        self.gru = nn.GRU(mels, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.attention = MiddleAttention(2 * hidden, heads)
        self.dropout = nn.Dropout(dropout)
        self.dense1 = nn.Linear(heads * 2 * hidden, 64)
        self.dense2 = nn.Linear(64, second_dense) if second_dense else nn.Identity()
        self.classifier = nn.Linear(second_dense or 64, num_classes)
        begin_as_keras(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, num_classes)."""
        found = self.dropout(self.attention(self.encode(features)))
        return self.classifier(self.dense2(F.relu(self.dense1(found))))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, D, T): what the GRU says at each frame."""
        bins = features.shape[2]
        if bins != self.mels:
            raise UsageError(f"mhatt_rnn was built for mels={self.mels}, got {bins} feature bins")
        states, _ = self.gru(self.convs(features))
        return states.transpose(1, 2)
