"""CNN-LSTM: normalised spectrogram -> two strided convolutions -> 2-layer LSTM -> last state -> linear.

The order of layers of Deep Speech 2 (Amodei et al., arXiv 1512.02595, sections 3.2 and 3.4) at the size of the CRNN for
keywords of Arik et al. (arXiv 1703.05390): convolutions shorten the sequence and find edges in time and frequency, the
LSTM reads what is left. A convolution is followed by batch normalisation and ReLU.
"""

from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models.keras_start import open_forget_gates

_KERNEL, _STRIDE = 5, 2


def build(
    num_classes: int,
    *,
    mels: int = 129,
    channels: int = 16,
    hidden: int = 128,
    layers: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """A CNN-LSTM classifier; the defaults have about 480 k parameters.

    Args:
        num_classes: width of the logits.
        mels: feature bins per frame; of a spectrogram, half the Fourier transform's length and one.
        channels: of the first convolution and of the second.
        hidden: units of each LSTM layer.
        layers: stacked LSTM layers.
        dropout: share of activations dropped between LSTM layers and before the classifier, in training.
    """
    for flag, value in {"mels": mels, "channels": channels, "hidden": hidden, "layers": layers}.items():
        if value < 1:
            raise UsageError(f"cnn_lstm needs {flag} of 1 or more, got {value}")
    if not 0 <= dropout < 1:
        raise UsageError(f"cnn_lstm needs dropout of 0 or more and below 1, got {dropout:g}")
    return CNNLSTM(num_classes, mels, channels, hidden, layers, dropout)


class CNNLSTM(nn.Module):
    """(B, 1, mels, frames) -> (B, num_classes), for any number of frames."""

    def __init__(self, num_classes: int, mels: int, channels: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.mels = mels
        self.convs = nn.Sequential(_conv(1, channels), _conv(channels, channels))
        bins = -(-mels // _STRIDE**2)  # each stride rounds up
        self.lstm = nn.LSTM(
            channels * bins, hidden, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        open_forget_gates(self.lstm)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, hidden, ceil(frames / 4)): the states of the top layer."""
        mels = features.shape[2]
        if mels != self.mels:
            raise UsageError(f"cnn_lstm was built for mels={self.mels}, got {mels} feature bins")
        maps = self.convs(features)  # (B, channels, bins, frames')
        return self.lstm(maps.flatten(1, 2).transpose(1, 2).contiguous())[0].transpose(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes)."""
        return self.classifier(self.dropout(self.encode(features)[:, :, -1]))


def _conv(in_channels: int, channels: int) -> nn.Sequential:
    """Halve bins and frames: (B, in_channels, bins, frames) -> (B, channels, ceil(bins / 2), ceil(frames / 2))."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, _KERNEL, stride=_STRIDE, padding=_KERNEL // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
