"""Mixing: two clips become one, whose label is shared between their words."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import Purpose, Spread, inside, probabilities, where_it_happens

_GRID_POINTS = 1 << 14


class Mix(nn.Module):
    """Mix-up or cut-mix of each clip with its partner, which is a second keyed draw and no other row of the batch.

    Mix-up (Zhang et al., arXiv 1710.09412): the sum of both waveforms, weighted with the shares of their labels; the
    partner's is drawn from Beta(alpha, alpha). Cut-mix (Yun et al., arXiv 1905.04899): a stretch of the partner takes
    the place of the clip's; its share of the label is its share of the clip's length, which is uniform. Padding and
    pauses count as any other sample: a share that asked where the words are could not be known from the draw alone.
    """

    def __init__(
        self,
        *,
        seed: int,
        clip_samples: int,
        mixup_probability: float = 0.0,
        mixup_alpha: float = 1.0,
        cutmix_probability: float = 0.0,
    ) -> None:
        """A draw gets one of the two or none: the probabilities add up to at most 1. `mixup_alpha` 1 is uniform."""
        super().__init__()
        self.seed, self.clip_samples = seed, clip_samples
        self.mixup_probability, self.cutmix_probability = mixup_probability, cutmix_probability
        self.mixup_share = Spread(beta_quantiles(mixup_alpha, probabilities()))

    def shares(self, draws: Tensor) -> Tensor:
        """Return how much of each row's label is its partner's: `(B,)` float32 in [0, 1], 0 where nothing is mixed."""
        mixup_share, _, cut_samples = self._drawn(draws)
        return mixup_share + cut_samples.to(torch.float32) / self.clip_samples

    def forward(self, wave: Tensor, partner_wave: Tensor, draws: Tensor) -> Tensor:
        """Mix `partner_wave` `(B, T)` into `wave` `(B, T)`; same shape."""
        mixup_share, first, cut_samples = self._drawn(draws)
        if self.mixup_probability:
            wave = (wave * (1.0 - mixup_share)[:, None]).add_(partner_wave * mixup_share[:, None])
        if self.cutmix_probability:
            wave = torch.where(inside(first, first + cut_samples, self.clip_samples), partner_wave, wave)
        return wave

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the share of each draw's partner, and where it lies."""
        mixup_share, first, cut_samples = self._drawn(draws)
        is_cut = cut_samples > 0
        return {
            "mixup_share": where_it_happens(mixup_share > 0, mixup_share),
            "cutmix_first_samples": where_it_happens(is_cut, first),
            "cutmix_samples": where_it_happens(is_cut, cut_samples),
        }

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `(B,)` each: the partner's share in a mix-up, where its stretch in a cut-mix begins, and how long."""
        chance, share, place = keyed.uniforms(self.seed, Purpose.MIX, draws, 3).unbind(1)
        mixes = chance < self.mixup_probability
        cuts = ~mixes & (chance < self.mixup_probability + self.cutmix_probability)
        cut_samples = torch.where(cuts, (share * (self.clip_samples + 1)).long(), 0)
        first = (place * (self.clip_samples - cut_samples + 1)).long()
        return torch.where(mixes, self.mixup_share(share), 0.0), first, cut_samples


def beta_quantiles(alpha: float, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of Beta(alpha, alpha) at the probabilities `at`, to about 1e-6.

    Of x with this distribution the log-odds z = log(x / (1 - x)) have a density proportional to cosh(z / 2) to the
    power of -2 alpha, smooth for any alpha: it is summed on a grid, and the sum inverted by interpolation.
    """
    reach = 40.0 / alpha + 8.0 * (2.0 / alpha) ** 0.5
    z = np.linspace(-reach, reach, 2 * _GRID_POINTS + 1)
    density = np.exp(-2.0 * alpha * (np.logaddexp(z / 2, -z / 2) - np.log(2.0)))
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return 1.0 / (1.0 + np.exp(-np.interp(at, below / below[-1], z)))
