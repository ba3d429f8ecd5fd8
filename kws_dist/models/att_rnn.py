"""Att-RNN: convolutions along time -> two BiLSTMs -> attention asked by the middle frame -> dense layers.

de Andrade et al., arXiv 1808.08929; douglas125/SpeechCmdRecognition, SpeechModels.py. The word is expected
in the middle of the clip, so the state there, through a dense layer, is the question put to all frames. (The last
version of that code asks with the last frame; the paper's text and the earlier code have the middle one.)

Parameters: 201,247 are published, for 36 classes, because the code counts one more than there are words (35). Keras
includes the 22 statistics of the batch norms there, and its LSTM has one bias where torch's has two (4 x 64 more in
each of 2 layers and 2 directions): 201,247 - 22 + 1,024 = 202,249 here.

Weights and norms begin as Keras's, in which it was trained.

B = batch, T = frames, D = width of the recurrent states.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.keras_start import KerasNorm, begin_as_keras


def build(num_classes: int, *, mels: int = 80, hidden: int = 64, dropout: float = 0.0) -> nn.Module:
    """Att-RNN; the paper has the defaults.

    Args:
        num_classes: width of the logits.
        mels: feature bins per frame.
        hidden: units of each LSTM layer and direction.
        dropout: share of what attention found that is dropped in training; the paper drops none.
    """
    for flag, value in {"mels": mels, "hidden": hidden}.items():
        if value < 1:
            raise UsageError(f"att_rnn needs {flag} of 1 or more, got {value}")
    if not 0 <= dropout < 1:
        raise UsageError(f"att_rnn needs dropout of 0 or more and below 1, got {dropout}")
    return AttRNN(num_classes, mels, hidden, dropout)


class AttRNN(nn.Module):
    """(B, 1, mels, T) -> (B, num_classes), for any number of frames."""

    def __init__(self, num_classes: int, mels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.mels = mels
        self.convs = TimeConvs()
        self.lstm = nn.LSTM(mels, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.attention = MiddleAttention(2 * hidden, heads=1)
        self.dropout = nn.Dropout(dropout)
        self.dense1 = nn.Linear(2 * hidden, 64)
        self.dense2 = nn.Linear(64, 32)
        self.classifier = nn.Linear(32, num_classes)
        begin_as_keras(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, num_classes)."""
        found = self.dropout(self.attention(self.encode(features)))
        return self.classifier(self.dense2(F.relu(self.dense1(found))))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, D, T): what the LSTM says at each frame."""
        bins = features.shape[2]
        if bins != self.mels:
            raise UsageError(f"att_rnn was built for mels={self.mels}, got {bins} feature bins")
        states, _ = self.lstm(self.convs(features))
        return states.transpose(1, 2)


class TimeConvs(nn.Module):
    """Two convolutions over 5 frames, to 10 maps and back to one, each with ReLU and then batch norm.

    They see one bin at a time and share their weights over the bins: a filter in time that is learnt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, (1, 5), padding=(0, 2))
        self.norm1 = KerasNorm(10)
        self.conv2 = nn.Conv2d(10, 1, (1, 5), padding=(0, 2))
        self.norm2 = KerasNorm(1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, T, mels), contiguous, as recurrent layers want it."""
        x = self.norm1(F.relu(self.conv1(features)))
        x = self.norm2(F.relu(self.conv2(x)))
        return x.squeeze(1).transpose(1, 2).contiguous()


class MiddleAttention(nn.Module):
    """Each head asks all frames with its own projection of the middle one; their answers are joined."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * width)  # the heads' dense layers, one below the other

    def forward(self, states: Tensor) -> Tensor:
        """(B, D, T) -> (B, heads * D)."""
        query = self.query(states[..., states.shape[-1] // 2]).unflatten(1, (self.heads, -1))  # (B, heads, D)
        weights = (query @ states).softmax(dim=-1)  # (B, heads, T); published without a division by sqrt(D)
        return (weights @ states.transpose(1, 2)).flatten(1)
