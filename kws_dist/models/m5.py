"""M5: convolutions on the raw waveform (Dai et al., arXiv 1610.00087, Table 1).

As in PyTorch's tutorial speech_command_classification_with_torchaudio, which has widths of 32, 32, 64 and 64 where the
paper has 128, 128, 256 and 512, a stride of 16 where it has 4, and no padding: 26,915 parameters for 35 words.
The first kernel, 80 samples or 10 ms at 8 kHz, takes the place of a filter bank.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_POOL = 4


def build(num_classes: int, *, channels: int = 32, stride: int = 16, dropout: float = 0.0) -> nn.Module:
    """M5 of the tutorial; with `channels=128, stride=4` the paper's, but for a last block half as wide.

    Args:
        num_classes: width of the logits.
        channels: width of the first two blocks; the last two are twice as wide.
        stride: of the first convolution, in samples.
        dropout: share of activations dropped before the classifier, in training; neither paper nor tutorial has it.
    """
    for flag, value in {"channels": channels, "stride": stride}.items():
        if value < 1:
            raise UsageError(f"m5 needs {flag} of 1 or more, got {value}")
    if not 0 <= dropout < 1:
        raise UsageError(f"m5 needs dropout of 0 or more and below 1, got {dropout:g}")
    return M5(num_classes, channels, stride, dropout)


class M5(nn.Module):
    """(B, 1, 1, samples) -> (B, num_classes), for any number of samples from `least_samples` on."""

    def __init__(self, num_classes: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(1, channels, kernel=80, stride=stride),
            _block(channels, channels, kernel=3),
            _block(channels, 2 * channels, kernel=3),
            _block(2 * channels, 2 * channels, kernel=3),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * channels, num_classes)
        self.least_samples = _samples_for(stride)

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, 1, samples) -> (B, 2 * channels, frames): 1 frame for 8,000 samples, 3 for 16,000."""
        bins, samples = features.shape[2:]
        if bins != 1:
            raise UsageError(f"m5 needs the waveform as 1 bin (--features.preset m5), got {bins} feature bins")
        if samples < self.least_samples:
            raise UsageError(f"m5 needs clips of {self.least_samples} samples or more, got {samples}")
        return self.blocks(features.squeeze(1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, 1, samples) -> (B, num_classes)."""
        return self.classifier(self.dropout(F.adaptive_avg_pool1d(self.encode(features), 1).squeeze(2)))


def _block(in_channels: int, channels: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(in_channels, channels, kernel, stride=stride),
        nn.BatchNorm1d(channels),
        nn.ReLU(),
        nn.MaxPool1d(_POOL),
    )


def _samples_for(stride: int) -> int:
    """Return how many samples one frame behind the last block is made of: its receptive field."""
    frames = 1
    for _ in range(3):
        frames = frames * _POOL + 2
    return (frames * _POOL - 1) * stride + 80
