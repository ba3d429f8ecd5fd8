"""CNN4: four blocks of convolution, batch norm, ReLU and max pool, then an adaptive average pool and a linear layer.

The plain convolutional network that users of keyword spotters start with: VGG's 3x3 kernels (Simonyan and Zisserman,
arXiv 1409.1556) on a log-mel map, with batch normalisation (Ioffe and Szegedy, arXiv 1502.03167). The average over what
is left of the map makes the weights independent of the number of mels and frames.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_WIDTHS = (1, 2, 4, 4)  # times `channels`
_LEAST = 2 ** len(_WIDTHS)  # bins and frames that survive as many halvings


def build(num_classes: int, *, channels: int = 32, dropout: float = 0.0) -> nn.Module:
    """Four blocks of `channels` x 1, 2, 4 and 4; the default, 32 to 128, has about 242 k parameters.

    Args:
        num_classes: width of the logits.
        channels: width of the first block.
        dropout: share of activations dropped before the classifier, in training.
    """
    if channels < 1:
        raise UsageError(f"cnn4 needs channels of 1 or more, got {channels}")
    if not 0 <= dropout < 1:
        raise UsageError(f"cnn4 needs dropout of 0 or more and below 1, got {dropout:g}")
    return CNN4(num_classes, channels, dropout)


class CNN4(nn.Module):
    """(B, 1, mels, frames) -> (B, num_classes), for any number of mels and frames from 16 on."""

    def __init__(self, num_classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        widths = [1, *(channels * times for times in _WIDTHS)]
        self.blocks = nn.Sequential(*(_block(*pair) for pair in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, 4 * channels, frames // 16): averaged over what is left of the bins."""
        mels, frames = features.shape[2:]
        if min(mels, frames) < _LEAST:
            raise UsageError(
                f"cnn4 halves the map four times and needs {_LEAST} bins and {_LEAST} frames or more,"
                f" got {mels} bins and {frames} frames"
            )
        return F.adaptive_avg_pool2d(self.blocks(features), (1, None)).squeeze(2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes)."""
        return self.classifier(self.dropout(F.adaptive_avg_pool1d(self.encode(features), 1).squeeze(2)))


def _block(in_channels: int, channels: int) -> nn.Sequential:
    """(B, in_channels, bins, frames) -> (B, channels, bins // 2, frames // 2)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
