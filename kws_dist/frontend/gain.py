"""Gain: the whole recording is louder or fainter."""

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import Purpose, decibels, spread_of_decibels, where_it_happens


class Gain(nn.Module):
    """Multiply each clip by a gain drawn uniformly in dB."""

    def __init__(self, *, seed: int, min_db: float, max_db: float, probability: float) -> None:
        super().__init__()
        self.seed, self.probability = seed, probability
        self.is_off = probability == 0 or min_db == max_db == 0
        self.factor = spread_of_decibels(min_db, max_db)

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Amplify `wave` `(B, T)`, clamped to [-1, 1]."""
        if self.is_off:
            return wave
        happens, factor = self._drawn(draws)
        return (wave * torch.where(happens, factor, 1.0)[:, None]).clamp_(-1.0, 1.0)

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the gain of each draw."""
        happens, factor = self._drawn(draws)
        return {"gain_db": where_it_happens(happens, decibels(factor))}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        chance, loud = keyed.uniforms(self.seed, Purpose.GAIN, draws, 2).unbind(1)
        return chance < self.probability, self.factor(loud)
