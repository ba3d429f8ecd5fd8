"""What is minimised for each clip: the loss against its label, and against a teacher's answer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kws_dist.data.workers import Batch


@dataclass(frozen=True, kw_only=True)
class LabelLoss:
    """The loss of each clip against its label, or against its two labels by their shares where clips are mixed."""

    label_smoothing: float = 0.0
    """Share of the target spread over all words (arXiv 1512.00567, section 7)."""
    focal_gamma: float = 0.0
    """Losses are multiplied by `(1 - p)` to this power, p being the label's probability (arXiv 1708.02002, eq. 4)."""
    class_weights: Tensor | None = None
    """`(num_classes,)`: losses are multiplied by the weight of their label."""

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """`(B, num_classes)` -> `(B,)`; of a mixed clip, mix-up's eq. 1 in arXiv 1710.09412."""
        losses = self._against(logits, batch.labels)
        if batch.partner_labels is None or batch.partner_share is None:
            return losses
        return torch.lerp(losses, self._against(logits, batch.partner_labels), batch.partner_share)

    def _against(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        if self.focal_gamma:
            likely = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
            losses = losses * (1.0 - likely).clamp_min(1e-7) ** self.focal_gamma
        return losses if self.class_weights is None else losses * self.class_weights[labels]


class Teacher(nn.Module):
    """A trained model whose answers are imitated (Hinton et al., arXiv 1503.02531)."""

    def __init__(self, model: nn.Module, order: Tensor, *, weight: float, temperature: float, hard: bool) -> None:
        """`order` `(num_classes,)`: which of the teacher's words each of the student's is.

        `weight`: share of the loss that is about its answer. `hard`: the answer is its most likely word (DeiT,
        arXiv 2012.12877, section 4; used for KWT in arXiv 2104.00769); else its probabilities at `temperature`.
        """
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.weight, self._temperature, self._hard = weight, temperature, hard
        self.register_buffer("_order", order)

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Features of the teacher's own kind -> its logits for the student's words `(B, num_classes)` float32."""
        return self.model(features).float()[:, self.get_buffer("_order")]

    def losses(self, logits: Tensor, answer: Tensor) -> Tensor:
        """`(B, num_classes)` of the student and of the teacher -> `(B,)`.

        Soft: the divergence at temperature T, times T squared, so that gradients keep their size (section 2).
        """
        if self._hard:
            return F.cross_entropy(logits, answer.argmax(1), reduction="none")
        temperature = self._temperature
        said, right = (logits / temperature).log_softmax(1), (answer / temperature).log_softmax(1)
        return F.kl_div(said, right, reduction="none", log_target=True).sum(1) * temperature**2
