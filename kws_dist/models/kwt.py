"""Keyword Transformer: every frame is a token, and a class token attends to them over 12 layers.

Berg et al., arXiv 2104.00769; ARM-software/keyword-transformer, kws_transformer.py and
transformer_utils.py. Norms come after the residual sum (post-norm), heads are 64 wide, GELU is exact.

    size   width   heads   MLP   parameters (12 classes, 98 frames of 40)
    1       64      1      256     607,308
    2      128      2      512   2,394,252
    3      192      3      768   5,360,844

B = batch, T = frames, D = width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError

_LAYERS = 12
_HEAD_WIDTH = 64
_SIZES = (1, 2, 3)
_INITIAL_STD = 0.02


def build(num_classes: int, *, mels: int = 40, frames: int = 98, size: int = 1, dropout: float = 0.0) -> nn.Module:
    """KWT-`size`; the paper has 1, 2 and 3.

    Args:
        num_classes: width of the logits.
        mels: feature bins (or cepstral coefficients) per frame.
        frames: length of a clip; each has a learnt position, so no other length will do.
        size: heads, each of width 64.
        dropout: share of what each attention and each MLP adds that is dropped, in training; the paper drops none.
    """
    for flag, value in {"mels": mels, "frames": frames}.items():
        if value < 1:
            raise UsageError(f"kwt needs {flag} of 1 or more, got {value}")
    if size not in _SIZES:
        raise UsageError(f"kwt needs size of 1, 2 or 3, got {size}")
    if not 0 <= dropout < 1:
        raise UsageError(f"kwt needs dropout of 0 or more and below 1, got {dropout}")
    return KWT(num_classes, mels, frames, size, dropout)


class KWT(nn.Module):
    """(B, 1, mels, frames) -> (B, num_classes), for exactly the number of frames that it was built for."""

    no_weight_decay = frozenset({"tokens.class_token", "tokens.positions"})
    """Parameters that are no vectors and yet, as biases and norms, are not to be decayed."""

    def __init__(self, num_classes: int, mels: int, frames: int, heads: int, dropout: float) -> None:
        super().__init__()
        width = heads * _HEAD_WIDTH
        self.tokens = Tokens(mels, frames, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(_LAYERS))
        self.classifier = nn.Linear(width, num_classes)
        self.apply(_initialize)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, num_classes)."""
        return self.classifier(self.encode(features)[..., 0])

    def encode(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, D, 1 + frames): the class token, and then the frames."""
        x = self.tokens(features)
        for block in self.blocks:
            x = block(x)
        return x.transpose(1, 2)


class Tokens(nn.Module):
    """Frames, projected, behind a class token, each with its position added."""

    def __init__(self, mels: int, frames: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(mels, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + frames, width))
        _truncated_normal(self.class_token)
        _truncated_normal(self.positions)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, mels, frames) -> (B, 1 + frames, D)."""
        bins, frames = features.shape[2:]
        mels, positions = self.projection.in_features, self.positions.shape[1] - 1
        if (bins, frames) != (mels, positions):
            raise UsageError(
                f"kwt was built for mels={mels} and frames={positions}, got {bins} feature bins and {frames} frames"
            )
        projected = self.projection(features.squeeze(1).transpose(1, 2))
        first = self.class_token.to(projected.dtype).expand(projected.shape[0], -1, -1)
        return torch.cat([first, projected], dim=1) + self.positions


class Block(nn.Module):
    """Attention, then an MLP; each is added to what it was made from, and the sum is normalised."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.combine = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + T, D) -> (B, 1 + T, D)."""
        x = self.norm1(x + self.dropout(self._attend(x)))
        return self.norm2(x + self.dropout(self.shrink(F.gelu(self.expand(x)))))

    def _attend(self, x: Tensor) -> Tensor:
        """(B, 1 + T, D) -> (B, 1 + T, D)."""
        split = self.query_key_value(x).unflatten(2, (3, self.heads, -1))  # (B, 1 + T, 3, heads, 64)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1 + T, 64)
        return self.combine(found.transpose(1, 2).flatten(2))


def _initialize(module: nn.Module) -> None:
    """As the published code does it; the layers of post-norm transformers are touchy about their first weights."""
    if isinstance(module, nn.Linear):
        _truncated_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _truncated_normal(weight: Tensor) -> None:
    """Keras cuts at two deviations, torch, unless told, at 2."""
    nn.init.trunc_normal_(weight, std=_INITIAL_STD, a=-2 * _INITIAL_STD, b=2 * _INITIAL_STD)
