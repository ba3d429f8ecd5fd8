"""Res8, Res15 and Res26: deep residual networks with dilation (Tang and Lin, arXiv 1710.10361; castorini/honk).

Maps keep their size, so that residuals need no projection; Res15 widens its view with dilation (2^(i // 3) in layer i),
the other two shrink the maps once, by pooling. Batch norms have no weights.

Parameters for 12 words: 237,882 (15), 110,307 (8), 438,357 (26), and 42,648, 19,905, 78,387 for the narrow ones: the
paper's 238 k, 110 k, 438 k, 42.6 k, 19.9 k and 78.4 k.

B = batch, C = maps, F = coefficients, T = frames.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_LAYERS = {8: 6, 15: 13, 26: 24}  # by depth: convolutions after the first; the classifier is the last layer
_POOLING = {8: (3, 4), 15: (1, 1), 26: (2, 2)}  # (frequency, time)


def build(num_classes: int, *, depth: int = 15, narrow: bool = False) -> nn.Module:
    """Res`depth`, for any number of coefficients and frames (published: 40 x 101).

    Args:
        num_classes: width of the logits.
        depth: 8, 15 or 26 layers.
        narrow: 19 maps in place of 45.
    """
    if depth not in _LAYERS:
        raise UsageError(f"res15 needs depth of 8, 15 or 26, got {depth}")
    return ResNet(num_classes, depth, channels=19 if narrow else 45)


class ResNet(nn.Module):
    """(B, 1, F, T) -> (B, num_classes): 3 x 3 convolutions, each second one with a residual, the mean over all."""

    def __init__(self, num_classes: int, depth: int, channels: int) -> None:
        super().__init__()
        self.pooling = _POOLING[depth]
        dilations = [2 ** (i // 3) if depth == 15 else 1 for i in range(_LAYERS[depth])]
        self.head = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(ConvNorm(channels, dilation) for dilation in dilations)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, num_classes)."""
        return self.classifier(self.encode(features).mean(dim=2))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, C, T'): the last maps, averaged over frequency."""
        # Not in channels_last: it is a little faster on a CPU, but torch 2.13 then gets the weight gradients of dilated
        # convolutions wrong in bf16 (those of dilation 4 and more are not even finite).
        x = self.head(features).relu_()
        x = residual = F.avg_pool2d(x, self.pooling) if max(self.pooling) > 1 else x
        for index, block in enumerate(self.blocks):
            x, residual = block(x, residual, joins=index % 2 == 1)
        return x.sum(dim=2) / x.shape[2]  # mean() would write its gradient out at full size


class ConvNorm(nn.Module):
    """Convolution, ReLU, in every second layer the residual, batch norm."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, residual: Tensor, *, joins: bool) -> tuple[Tensor, Tensor]:
        """(B, C, F, T) and the residual, as large -> the output, and the residual for the layers after this one."""
        y = self.conv(x).relu_()
        if joins:
            y = residual = y + residual
        return self.norm(y), residual
