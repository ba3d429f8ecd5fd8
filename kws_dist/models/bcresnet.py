"""BC-ResNet: broadcasted residual learning (Kim et al., arXiv 2106.04140; layers: Table 1, sizes: Table 3).

A block works on the whole time-frequency map only through cheap frequency convolutions (f2); it averages
frequency away, mixes channels and time on the remaining 1D signal (f1), and broadcasts that back:

    y = relu(x + f2(x) + broadcast(f1(avg_freq(f2(x)))))

B = batch, C = channels, F = frequency bins, T = frames.
"""

from torch import Tensor, nn

from kws_dist.errors import UsageError

_BANDS = 5
_BLOCKS_PER_STAGE = (2, 2, 4, 4)
_FREQ_STRIDES = (1, 2, 2, 1)


def build(num_classes: int, *, tau: float = 1.0, dropout: float = 0.1) -> nn.Module:
    """BC-ResNet-`tau`; the paper has 1, 1.5, 2, 3, 6 and 8.

    Args:
        num_classes: width of the logits.
        tau: width multiplier; the base width is 8 * tau channels.
        dropout: share of channels dropped after each block's 1D part, in training.
    """
    return BCResNet(num_classes, tau=tau, dropout=dropout)


class SubSpectralNorm(nn.Module):
    """Batch normalisation of each of 5 frequency bands on its own (Chang et al., arXiv 2103.13620)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels * _BANDS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T); F is a multiple of 5."""
        batch, channels, bins, frames = x.shape
        banded = x.reshape(batch, channels * _BANDS, bins // _BANDS, frames)
        return self.norm(banded).view(batch, channels, bins, frames)


class BCResBlock(nn.Module):
    """One broadcasted residual block; where the width changes, it is the paper's transition block."""

    def __init__(self, in_channels: int, channels: int, *, freq_stride: int, dilation: int, dropout: float):
        super().__init__()
        self.is_transition = in_channels != channels
        if self.is_transition:
            self.expand = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.expand_norm = nn.BatchNorm2d(channels)
        self.freq_conv = nn.Conv2d(
            channels, channels, (3, 1), (freq_stride, 1), (1, 0), groups=channels, bias=False
        )
        self.freq_norm = SubSpectralNorm(channels)
        self.time_conv = nn.Conv2d(
            channels, channels, (1, 3), 1, (0, dilation), (1, dilation), groups=channels, bias=False
        )
        self.time_norm = nn.BatchNorm2d(channels)
        self.swish = nn.SiLU(inplace=True)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, F, T) -> (B, C, F / freq_stride, T)."""
        residual = x
        if self.is_transition:
            x = self.expand_norm(self.expand(x)).relu_()
        wide = self.freq_norm(self.freq_conv(x))
        narrow = wide.mean(dim=2, keepdim=True)
        narrow = self.swish(self.time_norm(self.time_conv(narrow)))
        narrow = self.dropout(self.mix(narrow))
        y = wide + narrow
        if not self.is_transition:
            y = y + residual
        return y.relu_()


class BCResNet(nn.Module):
    """The network of Table 1: convolution head, 12 blocks in 4 stages (dilation 1, 2, 4, 8), classifier."""

    def __init__(self, num_classes: int, *, tau: float, dropout: float) -> None:
        super().__init__()
        base = int(8 * tau)
        if base < 1:
            raise UsageError(f"bcresnet needs tau of 0.125 or more (the paper: 1 to 8), got {tau}")
        widths = (2 * base, base, int(1.5 * base), 2 * base, int(2.5 * base))
        self.head = nn.Conv2d(1, widths[0], 5, stride=(2, 1), padding=2, bias=False)
        self.head_norm = nn.BatchNorm2d(widths[0])
        blocks = []
        for stage, count in enumerate(_BLOCKS_PER_STAGE):
            for index in range(count):
                blocks.append(
                    BCResBlock(
                        widths[stage] if index == 0 else widths[stage + 1],
                        widths[stage + 1],
                        freq_stride=_FREQ_STRIDES[stage] if index == 0 else 1,
                        dilation=2**stage,
                        dropout=dropout,
                    )
                )
        self.blocks = nn.Sequential(*blocks)
        last = widths[-1]
        self.tail_conv = nn.Conv2d(last, last, 5, padding=(0, 2), groups=last, bias=False)
        self.tail_mix = nn.Conv2d(last, 4 * base, 1, bias=False)
        self.tail_norm = nn.BatchNorm2d(4 * base)
        self.classifier = nn.Linear(4 * base, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes); mels a multiple of 40, so that 5 bands remain."""
        mels = features.shape[2]
        if mels % (8 * _BANDS):
            raise UsageError(f"bcresnet needs a multiple of 40 mel bins (3 halvings, 5 bands), got {mels}")
        x = self.head_norm(self.head(features)).relu_()
        x = self.blocks(x)
        x = self.tail_norm(self.tail_mix(self.tail_conv(x))).relu_()
        return self.classifier(x.mean(dim=(2, 3)))
