"""DS-CNN: depthwise separable convolutions for microcontrollers (Zhang et al., "Hello Edge", arXiv 1711.07128).

Layers and strides are those of train_commands.txt in ARM-software/ML-KWS-for-MCU: a 10 x 4 convolution (frames x
coefficients), 4 or 5 separable 3 x 3 ones, the mean over both axes, a linear layer. MLPerf Tiny's keyword spotter is
size S with dropout (0.4).

As there, weights begin as Glorot's and a batch norm keeps 0.96 of its statistics. (Its norms have no scale, and its
convolutions a bias instead: as many parameters, and the layer behind can undo a scale.)

Parameters for 12 words: 23,180 (S), 136,580 (M), 413,736 (L). The paper gives the memory of an 8-bit network with its
batch norms folded into the convolutions, so with one number per channel in place of two: 22,604, 135,032 and 410,700
bytes of weights. Each of these and the two largest maps that follow each other are the paper's 38.6, 189.2 and
497.6 KB.

B = batch, C = channels, F = coefficients, T = frames.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_Norm = partial(nn.BatchNorm2d, momentum=0.04)

_SIZES = {  # channels, separable layers, then the strides (frequency, time) of the first two layers
    "S": (64, 4, (2, 2), (1, 1)),
    "M": (172, 4, (1, 2), (2, 2)),
    "L": (276, 5, (1, 2), (2, 2)),
}


def build(num_classes: int, *, size: str = "S", dropout: float = 0.0) -> nn.Module:
    """DS-CNN-`size`, for any number of coefficients and frames (published: 10 x 49).

    Args:
        num_classes: width of the logits.
        size: S, M or L.
        dropout: share of the last maps' activations dropped before they are averaged, and half of it after the first
            convolution, in training. The paper has none, MLPerf Tiny 0.4.
    """
    if size not in _SIZES:
        raise UsageError(f"ds_cnn needs size of {', '.join(_SIZES)}, got {size}")
    if not 0 <= dropout < 1:
        raise UsageError(f"ds_cnn needs dropout of 0 or more and below 1, got {dropout}")
    return DSCNN(num_classes, *_SIZES[size], dropout)


class DSCNN(nn.Module):
    """(B, 1, F, T) -> (B, num_classes)."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        layers: int,
        head_stride: tuple[int, int],
        second_stride: tuple[int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, channels, (4, 10), stride=head_stride, bias=False)
        self.head_norm = _Norm(channels)
        self.head_dropout = nn.Dropout(dropout / 2)
        strides = [second_stride, *[(1, 1)] * (layers - 1)]
        self.blocks = nn.ModuleList(SeparableConv(channels, stride) for stride in strides)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, num_classes)."""
        return self.classifier(self.encode(features).mean(dim=2))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, C, T'): the last maps, averaged over frequency."""
        # An even kernel has no middle: as TensorFlow does, one more zero behind than before.
        x = self.head(F.pad(features, (4, 5, 1, 2)))
        # A CPU trains depthwise layers about twice as fast with a position's channels side by side.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.head_dropout(self.head_norm(x).relu_())
        for block in self.blocks:
            x = block(x)
        return self.dropout(x).mean(dim=2)


class SeparableConv(nn.Module):
    """A 3 x 3 convolution of each channel, then one of all channels at each place, both normalised, with ReLU.

    Padded by one on each side. (Where a stride of 2 meets an even number of bins, TensorFlow pads only behind: its
    maps are as large, and lie one bin further.)
    """

    def __init__(self, channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
        self.depthwise_norm = _Norm(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.pointwise_norm = _Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F / stride, T / stride), rounded up."""
        x = self.depthwise_norm(self.depthwise(x)).relu_()
        return self.pointwise_norm(self.pointwise(x)).relu_()
