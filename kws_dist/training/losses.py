"""What is minimised for each clip: the loss against its label, and against a teacher's answer."""

from collections.abc import Callable
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
    """`-log(p)` is multiplied by `(1 - p)` to this power, p being a word's probability (arXiv 1708.02002, eq. 4)."""
    class_weights: Tensor | None = None
    """`(num_classes,)`: losses are multiplied by the weight of their label."""

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """`(B, num_classes)` -> `(B,)`; of a mixed clip, mix-up's eq. 1 in arXiv 1710.09412."""
        return _of_both(batch, lambda labels: self._against(logits, labels))

    def weighted(self, losses: Tensor, batch: Batch) -> Tensor:
        """Weight losses against something else `(B,)` by the words of their clips, as those against labels are."""
        weights = self.class_weights
        return losses if weights is None else losses * _of_both(batch, lambda labels: weights[labels])

    def _against(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.focal_gamma:
            losses = self._focal(logits, labels)
        else:
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return losses if self.class_weights is None else losses * self.class_weights[labels]

    def _focal(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each word has its own factor: that of the label alone would take away what smoothing asks for the others."""
        log_likely = logits.log_softmax(1)
        each = -log_likely * (1.0 - log_likely.exp()).clamp_min(1e-7) ** self.focal_gamma
        return torch.lerp(each.gather(1, labels[:, None]).squeeze(1), each.mean(1), self.label_smoothing)


def _of_both(batch: Batch, figure: Callable[[Tensor], Tensor]) -> Tensor:
    """What `figure` gives for the labels of each clip `(B,)`: of a mixed clip for both, by their shares."""
    if batch.partner_labels is None or batch.partner_share is None:
        return figure(batch.labels)
    return torch.lerp(figure(batch.labels), figure(batch.partner_labels), batch.partner_share)


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
