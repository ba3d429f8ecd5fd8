"""MatchboxNet-BxRxC: time-channel separable 1D convolutions (Majumdar and Ginsburg, arXiv 2004.08531, Table 1).

As in NVIDIA/NeMo, matchboxnet_3x1x64_v2.yaml: a separable convolution over 11 frames, B residual blocks of R separable
convolutions (over 13, 15, 17, ... frames), one over 29 with dilation 2, one over a single frame, the mean over time.

Parameters for 30 words (v0.01): 77,214 (3x1x64), 92,766 (3x2x64), 138,846 (6x2x64); for 35 (v0.02): 77,859, 93,411 and
139,491. The paper says 77 k, 93 k and 140 k whatever the words, which the last meets within 1.2 k and 0.6 k only.

A time-channel signal is kept as (B, C, T, 1) with the channels of a frame side by side, because a CPU trains these
layers as two-dimensional ones three times as fast as with `nn.Conv1d`.

B = batch, C = channels, T = frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_WIDE = 128  # channels of the first and of the last two layers


def build(
    num_classes: int, *, mels: int = 64, blocks: int = 3, repeats: int = 1, channels: int = 64, dropout: float = 0.0
) -> nn.Module:
    """MatchboxNet-`blocks`x`repeats`x`channels`, for any number of frames (published: 128, with 28 of them zeros).

    Args:
        num_classes: width of the logits.
        mels: feature bins per frame (published: 64 MFCC).
        blocks: residual blocks.
        repeats: separable convolutions in each block.
        channels: width of the blocks.
        dropout: share of activations dropped after each layer, in training.
    """
    for flag, value in {"mels": mels, "blocks": blocks, "repeats": repeats, "channels": channels}.items():
        if value < 1:
            raise UsageError(f"matchboxnet needs {flag} of 1 or more, got {value}")
    if not 0 <= dropout < 1:
        raise UsageError(f"matchboxnet needs dropout of 0 or more and below 1, got {dropout}")
    return MatchboxNet(num_classes, mels, blocks, repeats, channels, dropout)


class MatchboxNet(nn.Module):
    """(B, 1, mels, T) -> (B, num_classes)."""

    def __init__(self, num_classes: int, mels: int, blocks: int, repeats: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.mels = mels
        self.head = SeparableConv(mels, _WIDE, 11)
        widths = [_WIDE, *[channels] * blocks]
        self.blocks = nn.ModuleList(
            ResidualBlock(widths[i], channels, 13 + 2 * i, repeats, dropout) for i in range(blocks)
        )
        self.tail = SeparableConv(channels, _WIDE, 29, dilation=2)
        self.mix = PointwiseConv(_WIDE, _WIDE)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_WIDE, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)  # NeMo's init_mode

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, num_classes)."""
        x = self.encode(features)
        return self.classifier(x.sum(dim=2) / x.shape[2])  # mean() would write its gradient out at full size

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, 128, T)."""
        if features.shape[2] != self.mels:
            raise UsageError(f"matchboxnet was built for mels={self.mels}, got {features.shape[2]} feature bins")
        x = features.squeeze(1).unsqueeze(3).contiguous(memory_format=torch.channels_last)
        x = self.dropout(self.head(x).relu_())
        for block in self.blocks:
            x = block(x)
        x = self.dropout(self.tail(x).relu_())
        return self.dropout(self.mix(x).relu_()).squeeze(3)


class ResidualBlock(nn.Module):
    """`repeats` separable convolutions, ReLU between them, and a pointwise shortcut added before the last ReLU."""

    def __init__(self, in_channels: int, channels: int, taps: int, repeats: int, dropout: float) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (repeats - 1)]
        self.layers = nn.ModuleList(SeparableConv(width, channels, taps) for width in widths)
        self.shortcut = PointwiseConv(in_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, 1) -> (B, C, T, 1)."""
        y = self.layers[0](x)
        for layer in self.layers[1:]:
            y = layer(self.dropout(y.relu_()))
        return self.dropout((y + self.shortcut(x)).relu_())


class SeparableConv(nn.Module):
    """A convolution of each channel over `taps` frames, then a normalised one of all channels in each frame."""

    def __init__(self, in_channels: int, channels: int, taps: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        padding = (taps // 2, 0)
        self.time = nn.Conv2d(in_channels, in_channels, (taps, 1), padding=padding, groups=in_channels, bias=False)
        self.mix = PointwiseConv(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, 1) -> (B, C, T, 1)."""
        if self.dilation == 1:
            return self.mix(self.time(x))
        # Every `dilation`-th frame in a column of its own: a plain convolution, and many times faster on a CPU.
        batch, channels, frames, _ = x.shape
        x = F.pad(x, (0, 0, 0, -frames % self.dilation)).reshape(batch, channels, -1, self.dilation)
        x = self.time(x).reshape(batch, channels, -1, 1)
        return self.mix(x[:, :, :frames])


class PointwiseConv(nn.Module):
    """A convolution of all channels in each frame, and batch norm."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, 1) -> (B, C, T, 1)."""
        return self.norm(self.conv(x))
