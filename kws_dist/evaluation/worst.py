"""The clips that a model gets most wrong, found while it is evaluated, on the device and without waiting for it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CLIPS = 1 << 32  # more than a split has; the lower half of an order key


@dataclass(frozen=True)
class WorstClip:
    """What a model makes of one clip."""

    clip: int
    """Its row in the store."""
    loss: float
    """Cross-entropy in nats."""
    predicted: int
    """The most probable label."""
    probability: float
    """Of that label."""


class WorstClips:
    """The `count` clips with the highest loss of all that were added; of equal ones, those that come first.

    A loss that is not finite is higher than any. What is kept does not depend on what was added in which order.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.order = torch.full((count,), -1, dtype=torch.int64, device=device)
        """`(count,)`: a whole number that is larger for a worse clip, and says which it is; -1 for none."""
        self.found = torch.zeros(count, 3, dtype=torch.float64, device=device)
        """`(count, 3)`: loss, predicted label, its probability."""

    def add(self, clip: Tensor, losses: Tensor, logits: Tensor, real: Tensor) -> None:
        """Add clips `(B,)` by their rows; `losses` `(B,)`, `logits` `(B, C)`; where `real` is false there is none."""
        # The bits of a float32 that is not negative, read as a whole number, are in the order of its value.
        bits = losses.float().abs().nan_to_num(nan=math.inf, posinf=math.inf).view(torch.int32)
        order = torch.where(real, bits.long() * _CLIPS + (_CLIPS - 1 - clip), -1)
        probability, predicted = logits.float().softmax(1).max(1)
        self.keep(order, torch.stack([losses.double(), predicted.double(), probability.double()], dim=1))

    def keep(self, order: Tensor, found: Tensor) -> None:
        """Keep the worst of these and those that were kept, the worst first."""
        order, found = torch.cat([self.order, order]), torch.cat([self.found, found])
        self.order, places = order.topk(len(self.order))
        self.found = found[places]

    def clips(self) -> tuple[WorstClip, ...]:
        """Wait for the device, and return them, the worst first."""
        return tuple(
            WorstClip(_CLIPS - 1 - order % _CLIPS, loss, int(predicted), probability)
            for order, (loss, predicted, probability) in zip(self.order.tolist(), self.found.tolist(), strict=True)
            if order >= 0
        )
