"""Time shift: the word comes earlier or later."""

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import Purpose, cut, where_it_happens


class TimeShift(nn.Module):
    """Move each clip by a whole number of samples in [-max, +max], filling with zeros."""

    def __init__(self, *, seed: int, max_samples: int, probability: float) -> None:
        super().__init__()
        self.seed, self.max_samples, self.probability = seed, max_samples, probability

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Shift `wave` `(B, T)`, of any type, by amounts keyed by `draws` `(B,)`; same shape."""
        if self.max_samples == 0 or self.probability == 0:
            return wave
        _, later = self._drawn(draws)
        padded = nn.functional.pad(wave, (self.max_samples, self.max_samples))
        row = torch.arange(len(wave), device=wave.device) * padded.shape[1]
        return cut(padded.view(-1), row + self.max_samples - later, wave.shape[1])

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return by how much each draw comes later."""
        happens, later = self._drawn(draws)
        return {"shift_samples": where_it_happens(happens, later)}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        chance, place = keyed.uniforms(self.seed, Purpose.SHIFT, draws, 2).unbind(1)
        happens = chance < self.probability
        later = self.max_samples - (place * (2 * self.max_samples + 1)).long()
        return happens, torch.where(happens, later, 0)
