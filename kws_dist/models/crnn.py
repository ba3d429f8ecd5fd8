"""CRNN: convolutions over time and frequency -> GRU -> the last state -> dense layers.

After Arik et al., arXiv 1703.05390. Sizes, all with convolutions that are not padded:

    stream  google-research, kws_streaming/models/crnn.py (arXiv 2005.06720): 20 MFCC, two convolutions, GRU of 256
    S M L   Hello Edge (arXiv 1711.07128), ARM-software/ML-KWS-for-MCU, train_commands.txt and models.py: 10 MFCC,
            one convolution, two GRUs, read forwards only (there, `bidirectional = False`)

Parameters with 12 classes: `stream` has 467,772 (467 k are published). S, M and L have 75,432, 189,032 and 485,004 by
the published code, where a GRU has one bias; torch's, which cuDNN computes, resets after its product and not before,
and so has a second one: 3 more for each of its units.

Weights of `stream` begin as Keras's, in which it was trained; those of S, M and L as torch's.

B = batch, T = frames.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.keras_start import begin_as_keras


@dataclass(frozen=True, kw_only=True)
class _Conv:
    maps: int
    time: int
    """Kernel, in frames."""
    frequency: int
    """Kernel, in bins."""
    time_stride: int = 1
    frequency_stride: int = 1


@dataclass(frozen=True, kw_only=True)
class _Plan:
    convs: tuple[_Conv, ...]
    gru: int
    gru_layers: int
    dense: tuple[int, ...]
    """Units of the dense layers; ReLU follows only the last of them."""


def _hello_edge(maps: int, frequency_stride: int, gru: int, dense: int) -> _Plan:
    conv = _Conv(maps=maps, time=10, frequency=4, time_stride=2, frequency_stride=frequency_stride)
    return _Plan(convs=(conv,), gru=gru, gru_layers=2, dense=(dense,))


_PLANS = {
    "stream": _Plan(
        convs=(_Conv(maps=16, time=3, frequency=3), _Conv(maps=16, time=5, frequency=3)),
        gru=256,
        gru_layers=1,
        dense=(128, 256),
    ),
    "S": _hello_edge(48, 2, 60, 84),
    "M": _hello_edge(128, 2, 76, 164),
    "L": _hello_edge(100, 1, 136, 188),
}


def build(num_classes: int, *, mels: int = 20, size: str = "stream", dropout: float = 0.1) -> nn.Module:
    """CRNN of a published size.

    Args:
        num_classes: width of the logits.
        mels: feature bins (or cepstral coefficients) per frame; published are 20 for `stream`, 10 for S, M and L.
        size: "stream", "S", "M" or "L".
        dropout: share of the GRU's last state that is dropped in training (`stream`), or of the convolution's and the
            dense layer's output (S, M, L; the published command drops none).
    """
    if size not in _PLANS:
        raise UsageError(f"crnn needs size of {', '.join(_PLANS)}, got {size!r}")
    plan = _PLANS[size]
    fewest = 1 + sum(conv.frequency - 1 for conv in plan.convs)
    if mels < fewest:
        raise UsageError(f"crnn of size {size} needs mels of {fewest} or more, got {mels}")
    if not 0 <= dropout < 1:
        raise UsageError(f"crnn needs dropout of 0 or more and below 1, got {dropout}")
    return CRNN(num_classes, mels, plan, dropout, drop_state=size == "stream")


class CRNN(nn.Module):
    """(B, 1, mels, T) -> (B, num_classes), for any number of frames from the convolutions' kernels on."""

    def __init__(self, num_classes: int, mels: int, plan: _Plan, dropout: float, *, drop_state: bool) -> None:
        super().__init__()
        self.mels = mels
        self.fewest_frames = 1 + sum(conv.time - 1 for conv in plan.convs)
        self.drop_state = drop_state
        self.convs = nn.ModuleList()
        maps, bins = 1, mels
        for conv in plan.convs:
            kernel, stride = (conv.frequency, conv.time), (conv.frequency_stride, conv.time_stride)
            self.convs.append(nn.Conv2d(maps, conv.maps, kernel, stride))
            maps, bins = conv.maps, (bins - conv.frequency) // conv.frequency_stride + 1
        self.gru = nn.GRU(maps * bins, plan.gru, num_layers=plan.gru_layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        widths = (plan.gru, *plan.dense)
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], num_classes)
        if drop_state:
            begin_as_keras(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, num_classes)."""
        x = self.encode(features)[..., -1]
        if self.drop_state:
            x = self.dropout(x)
        for dense in self.dense:
            x = dense(x)
        x = F.relu(x)
        return self.classifier(x if self.drop_state else self.dropout(x))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, units, T'): the states of the last GRU; T' is T - 6 for `stream`, else T // 2 - 4."""
        bins, frames = features.shape[2:]
        if bins != self.mels:
            raise UsageError(f"crnn was built for mels={self.mels}, got {bins} feature bins")
        if frames < self.fewest_frames:
            raise UsageError(f"crnn needs {self.fewest_frames} frames or more, got {frames}")
        x = features
        for conv in self.convs:
            x = F.relu(conv(x))
        if not self.drop_state:
            x = self.dropout(x)
        states, _ = self.gru(
            x.flatten(1, 2).transpose(1, 2).contiguous()
        )  # (B, maps, bins, T') -> (B, T', maps * bins)
        return states.transpose(1, 2)
