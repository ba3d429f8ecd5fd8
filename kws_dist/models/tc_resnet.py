"""TC-ResNet: a residual network of temporal convolutions (Choi et al., arXiv 1904.03814; hyperconnect/TC-ResNet).

The coefficients of a frame are the channels of a one-dimensional signal, so every layer hears the whole spectrum.

Parameters for 12 words: 65,180 (8), 144,276 (8, width 1.5), 135,868 (14), 303,012 (14, width 1.5). The paper's 66 k,
145 k, 137 k and 305 k also count the running means and variances of the batch norms, and its classifier has no bias.
Norms have torch's momentum and epsilon, 0.1 and 1e-5 (published: 0.003 and 1e-3, for a run of 30,000 steps).

B = batch, C = channels, T = frames.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_CHANNELS = {8: (16, 24, 32, 48), 14: (16, 24, 24, 32, 32, 48, 48)}  # by depth: first layer, then each block


def build(num_classes: int, *, mels: int = 40, depth: int = 8, width: float = 1.0, dropout: float = 0.5) -> nn.Module:
    """TC-ResNet`depth`-`width`, for any number of frames (published: 98).

    Args:
        num_classes: width of the logits.
        mels: feature bins per frame (published: 40 MFCC).
        depth: 8 or 14 layers.
        width: multiplier of the channels; the paper has 1 and 1.5.
        dropout: share of activations dropped before the classifier, in training.
    """
    if mels < 1:
        raise UsageError(f"tc_resnet needs mels of 1 or more, got {mels}")
    if depth not in _CHANNELS:
        raise UsageError(f"tc_resnet needs depth of 8 or 14, got {depth}")
    if not 1 / 16 <= width < float("inf"):
        raise UsageError(f"tc_resnet needs width of 0.0625 or more (the paper: 1 and 1.5), got {width}")
    if not 0 <= dropout < 1:
        raise UsageError(f"tc_resnet needs dropout of 0 or more and below 1, got {dropout}")
    return TCResNet(num_classes, mels, [int(channels * width) for channels in _CHANNELS[depth]], dropout)


class TCResNet(nn.Module):
    """(B, 1, mels, T) -> (B, num_classes): a first convolution, residual blocks of two, the mean over time."""

    def __init__(self, num_classes: int, mels: int, channels: list[int], dropout: float) -> None:
        super().__init__()
        self.head = nn.Conv1d(mels, channels[0], 3, padding=1, bias=False)
        self.head_norm = nn.BatchNorm1d(channels[0])
        self.blocks = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise(channels))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)  # as the published learning rate expects

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, num_classes)."""
        return self.classifier(self.dropout(self.encode(features).mean(dim=2)))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, C, T / 8)."""
        mels = features.shape[2]
        if mels != self.head.in_channels:
            raise UsageError(f"tc_resnet was built for mels={self.head.in_channels}, got {mels} feature bins")
        x = self.head_norm(self.head(features.squeeze(1))).relu_()
        for block in self.blocks:
            x = block(x)
        return x


class ResidualBlock(nn.Module):
    """Two convolutions over 9 frames and a shortcut; where the channels change, both halve the frames."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.is_transition = in_channels != channels
        stride = 2 if self.is_transition else 1
        if self.is_transition:
            self.shortcut = nn.Conv1d(in_channels, channels, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm1d(channels)
        self.conv1 = nn.Conv1d(in_channels, channels, 9, stride=stride, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 9, padding=4, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T) -> (B, C, T / stride), rounded up."""
        # In the original the shortcut ends in a ReLU as well: it is slim's default, and not switched off there.
        shortcut = self.shortcut_norm(self.shortcut(x)).relu_() if self.is_transition else x
        # An even number of frames gets one less in front where it is halved, as TensorFlow's SAME has it.
        front = 3 if self.is_transition and x.shape[2] % 2 == 0 else 4
        x = self.norm1(self.conv1(F.pad(x, (front, 4)))).relu_()
        return (self.norm2(self.conv2(x)) + shortcut).relu_()
