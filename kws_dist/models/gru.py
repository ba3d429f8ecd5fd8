"""GRU keyword model: normalised mel frames -> stacked GRU -> attention pooling over time -> linear.

After the recurrent baselines of Rybakov et al., arXiv 2005.06720, section 3; attention pooling lets the word
lie anywhere in the clip.
"""

from torch import Tensor, nn

from kws_dist.errors import UsageError


def build(
    num_classes: int,
    *,
    mels: int = 40,
    hidden: int = 128,
    layers: int = 2,
    bidirectional: bool = True,
    dropout: float = 0.1,
) -> nn.Module:
    """A GRU classifier; the defaults have about 430 k parameters, `bidirectional=False` about 170 k.

    Args:
        num_classes: width of the logits.
        mels: feature bins per frame.
        hidden: units of each GRU layer and direction.
        layers: stacked GRU layers.
        bidirectional: also read the clip backwards (not for streaming).
        dropout: share of activations dropped between layers and before the classifier, in training.
    """
    for flag, value in {"mels": mels, "hidden": hidden, "layers": layers}.items():
        if value < 1:
            raise UsageError(f"gru needs {flag} of 1 or more, got {value}")
    if not 0 <= dropout < 1:
        raise UsageError(f"gru needs dropout of 0 or more and below 1, got {dropout:g}")
    return GRUClassifier(num_classes, mels, hidden, layers, bidirectional, dropout)


class GRUClassifier(nn.Module):
    """(B, 1, mels, frames) -> (B, num_classes), for any number of frames."""

    def __init__(
        self, num_classes: int, mels: int, hidden: int, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        # Log-mel energies have any offset and scale; gates saturate unless bins are brought to unit variance.
        self.norm = nn.BatchNorm1d(mels)
        self.gru = nn.GRU(
            mels,
            hidden,
            num_layers=layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        width = hidden * (2 if bidirectional else 1)
        self.attention = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes)."""
        states = self.encode(features).transpose(1, 2)  # (B, frames, width)
        weights = self.attention(states).softmax(dim=1)  # (B, frames, 1)
        return self.classifier(self.dropout((weights * states).sum(dim=1)))

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, hidden in both directions, frames): what is averaged over time."""
        mels = features.shape[2]
        if mels != self.norm.num_features:
            raise UsageError(f"gru was built for mels={self.norm.num_features}, got {mels} mel bins")
        frames = self.norm(features.squeeze(1)).transpose(1, 2).contiguous()  # as cuDNN wants it
        return self.gru(frames)[0].transpose(1, 2)
