"""BC-ResNet: broadcasted residual learning (Kim et al., arXiv 2106.04140; layers: Table 1, sizes: Table 3).

A block works on the whole time-frequency map only through cheap frequency convolutions (f2); it averages
frequency away, mixes channels and time on the remaining 1D signal (f1), and broadcasts that back:

    y = relu(x + f2(x) + broadcast(f1(avg_freq(f2(x)))))

Maps are kept channel-major, (C, F, N) with N = B * T: the batch is laid along time, as one long recording. Few
layers mix frames, so most see long contiguous rows: a 1x1 convolution is one matrix product, a frequency
convolution is one per channel, and a normalised channel is one row. (B, C, F, T) computes the same function in
many small passes over memory and takes about twice as long to train on a CPU.

B = batch, C = channels, F = frequency bins, T = frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_BANDS = 5  # of SubSpectralNorm
_BLOCKS_PER_STAGE = (2, 2, 4, 4)
_FREQ_STRIDES = (1, 2, 2, 1)


def build(num_classes: int, *, tau: float = 1.0, dropout: float = 0.1) -> nn.Module:
    """BC-ResNet-`tau`; the paper has 1, 1.5, 2, 3, 6 and 8.

    Args:
        num_classes: width of the logits.
        tau: width multiplier; the base width is 8 * tau channels, rounded down as the others are.
        dropout: share of channels dropped after each block's 1D part, in training.
    """
    if not 0 <= dropout < 1:
        raise UsageError(f"bcresnet needs dropout of 0 or more and below 1, got {dropout:g}")
    return BCResNet(num_classes, tau=tau, dropout=dropout)


class BCResNet(nn.Module):
    """The network of Table 1: convolution head, 12 blocks in 4 stages (dilation 1, 2, 4, 8), classifier."""

    def __init__(self, num_classes: int, *, tau: float, dropout: float) -> None:
        super().__init__()
        base = int(8 * tau)
        if base < 1:
            raise UsageError(f"bcresnet needs tau of 0.125 or more (the paper: 1 to 8), got {tau}")
        widths = (2 * base, base, int(1.5 * base), 2 * base, int(2.5 * base))
        self.head = nn.Conv2d(1, widths[0], 5, stride=(2, 1), padding=2, bias=False)
        self.head_norm = RowNorm(widths[0], relu=True)
        self.blocks = nn.ModuleList()
        for stage, count in enumerate(_BLOCKS_PER_STAGE):
            stride, dilation, width = _FREQ_STRIDES[stage], 2**stage, widths[stage + 1]
            self.blocks.append(BCResBlock(widths[stage], width, stride, dilation, dropout))
            self.blocks.extend(BCResBlock(width, width, 1, dilation, dropout) for _ in range(count - 1))
        self.tail = TailConv(widths[-1])
        self.tail_mix = nn.Linear(widths[-1], 4 * base, bias=False)
        self.tail_norm = RowNorm(4 * base, relu=True)
        self.classifier = nn.Linear(4 * base, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes); mels a multiple of 40, so that 5 bands remain."""
        return self.classifier(self.encode(features).mean(dim=2))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, 32 * tau, frames): what is averaged over time."""
        batch, _, mels, frames = features.shape
        if mels % (8 * _BANDS):
            raise UsageError(f"bcresnet needs a multiple of 40 mel bins (3 halvings, 5 bands), got {mels}")
        if frames < 2:
            raise UsageError(f"bcresnet needs clips of 2 frames or more, got {frames}")
        x = self.head(features).permute(1, 2, 0, 3).flatten(2)  # (B, C, F, T) -> (C, F, N)
        x = self.head_norm(x)
        for block in self.blocks:
            x = block(x, batch)
        x = self.tail(x.unflatten(2, (batch, -1)))  # (C, F - 4, B, T)
        x = self.tail_norm(_mix(self.tail_mix, x))
        return x.mean(dim=1).transpose(0, 1)


class BCResBlock(nn.Module):
    """One broadcasted residual block; where the width changes, it is the paper's transition block."""

    def __init__(self, in_channels: int, channels: int, freq_stride: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.is_transition = in_channels != channels
        if self.is_transition:
            self.expand = nn.Linear(in_channels, channels, bias=False)
            self.expand_norm = RowNorm(channels, relu=True)
        self.freq_conv = FrequencyConv(channels, freq_stride)
        self.freq_norm = RowNorm(channels * _BANDS)
        self.time_conv = TimeConv(channels, dilation)
        self.time_norm = RowNorm(channels)
        self.mix = nn.Linear(channels, channels, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """(C_in, F, N) -> (C, F / freq_stride, N)."""
        residual = x
        if self.is_transition:
            x = self.expand_norm(_mix(self.expand, x))
        wide = self.freq_norm(self.freq_conv(x))  # f2(x)
        narrow = wide.sum(dim=1) / wide.shape[1]  # (C, N); mean() would write its gradient out at full size
        narrow = self._f1(narrow.unflatten(1, (batch, -1))).flatten(1)
        y = wide + narrow.unsqueeze(1)
        if not self.is_transition:
            y += residual
        return y.relu_()

    def _f1(self, x: Tensor) -> Tensor:
        """(C, B, T) -> (C, B, T)."""
        x = _mix(self.mix, F.silu(self.time_norm(self.time_conv(x))))
        return self.dropout(x.unsqueeze(2)).squeeze(2)  # as (C, B, 1, T): a clip's whole channel is dropped


class RowNorm(nn.Module):
    """Batch normalisation of a channel-major map cut into `rows` equal rows, each with its own statistics.

    With one row per channel this is BatchNorm2d; with 5 rows per channel it is SubSpectralNorm (Chang et al.,
    arXiv 2103.13620), because a channel's frequency bands lie one after the other.
    """

    def __init__(self, rows: int, *, relu: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(rows)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(C, ...) -> (C, ...)."""
        rows = x.reshape(1, self.norm.num_features, -1)
        on_cpu = x.device.type == "cpu" and self.norm.training
        # A SyncBatchNorm put in its place, or a running mean over all batches (momentum None), is torch's to do.
        if on_cpu and type(self.norm) is nn.BatchNorm1d and self.norm.momentum is not None:
            y = _batch_norm_by_groups(self.norm, rows, self.norm.momentum)
        else:
            y = self.norm(rows)
        return (y.relu_() if self.relu else y).view_as(x)


class FrequencyConv(nn.Module):
    """Depthwise 3x1 convolution along frequency, padding 1."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.groups = channels  # as torch's convolutions call it
        self.stride = stride
        self.weight = _depthwise_weight(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(C, F, N) -> (C, F / stride, N)."""
        return torch.bmm(_band_matrix(self.weight, x.shape[1], padding=1, stride=self.stride), x)


class TimeConv(nn.Module):
    """Depthwise 1x3 convolution along time, dilated, padded to keep the frames."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.groups = channels
        self.dilation = dilation
        self.weight = _depthwise_weight(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(C, B, T) -> (C, B, T). On so small a map, shifts are quicker than a matrix product of frames by frames."""
        frames, shift = x.shape[2], self.dilation
        before, at, after = self.weight.to(x.dtype)[:, :, None, None].unbind(1)  # each (C, 1, 1)
        padded = F.pad(x, (shift, shift))
        return x * at + padded[..., :frames] * before + padded[..., 2 * shift :] * after


class TailConv(nn.Module):
    """Depthwise 5x5 convolution, padded in time only: a product along frequency for each of 5 time taps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = channels
        self.weight = _depthwise_weight(channels, 5, 5)  # (C, frequency, time)

    def forward(self, x: Tensor) -> Tensor:
        """(C, F, B, T) -> (C, F - 4, B, T)."""
        channels, bins, batch, frames = x.shape
        matrix = _band_matrix(self.weight.transpose(1, 2).flatten(0, 1), bins)  # (C * 5, F - 4, F)
        taps = torch.bmm(matrix.reshape(channels, -1, bins), x.flatten(2)).view(channels, 5, -1, batch, frames)
        shifted = [F.pad(tap, (2 - index, index - 2)) for index, tap in enumerate(taps.unbind(1))]
        return torch.stack(shifted).sum(0)


def _depthwise_weight(channels: int, *taps: int) -> nn.Parameter:
    """(C, *taps), drawn as torch draws a convolution's weights: uniform within 1 / sqrt(fan in)."""
    weight = torch.empty(channels, *taps)
    return nn.Parameter(nn.init.uniform_(weight, -(weight[0].numel() ** -0.5), weight[0].numel() ** -0.5))


def _mix(linear: nn.Linear, x: Tensor) -> Tensor:
    """1x1 convolution of a channel-major map: (C_in, ...) -> (C, ...)."""
    return (linear.weight @ x.flatten(1)).view(-1, *x.shape[1:])


def _band_matrix(weight: Tensor, bins: int, *, padding: int = 0, stride: int = 1) -> Tensor:
    """The matrices (C, bins', bins) that convolve `bins` frequency bins with each row of `weight` (C, taps)."""
    padded = F.pad(torch.eye(bins, dtype=weight.dtype, device=weight.device), (0, 0, padding, padding))
    picks = padded.unfold(0, weight.shape[1], stride)  # (bins', bins, taps)
    return (weight @ picks.flatten(0, 1).t()).view(-1, *picks.shape[:2])


def _batch_norm_by_groups(norm: nn.BatchNorm1d, rows: Tensor, momentum: float) -> Tensor:
    """`norm(rows)` in training, (1, R, L) -> (1, R, L), as a group normalisation with each row a group.

    torch's CPU kernel for group normalisation is vectorised; that for batch normalisation takes twice as long.
    """
    _, count, length = rows.shape
    y, mean, rstd = torch.native_group_norm(rows, norm.weight, norm.bias, 1, count, length, count, norm.eps)
    with torch.no_grad():
        var = (rstd.square().reciprocal() - norm.eps) * (length / (length - 1))
        norm.get_buffer("running_mean").lerp_(mean[0], momentum)
        norm.get_buffer("running_var").lerp_(var[0], momentum)
        norm.get_buffer("num_batches_tracked").add_(1)
    return y
