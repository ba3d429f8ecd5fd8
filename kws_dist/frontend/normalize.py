"""Features of mean 0 and deviation 1, of each clip or over a dataset."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kws_dist.errors import UsageError

_LEAST_DEVIATION = 1e-5
"""What varies less than so, such as a clip of digital silence, is not blown up to a deviation of 1."""


class ClipNormalization(nn.Module):
    """Each clip to mean 0 and deviation 1 over its whole map: `(B, bins, frames)` float32 -> the same shape.

    As in Att-RNN (de Andrade et al., 2018, arXiv 1808.08929, and its published code). The bins keep their offsets from
    each other, which tell sounds apart; that of each bin alone would be lost in a clip that holds one sound.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each row by itself."""
        # Sums in float64 come out alike for any number of rows, and exact where all values are.
        mean = features.mean(dim=(1, 2), keepdim=True, dtype=torch.float64)
        centered = features - mean.float()
        variance = centered.square().mean(dim=(1, 2), keepdim=True, dtype=torch.float64)
        return centered / variance.sqrt().float().clamp(min=_LEAST_DEVIATION)


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each feature bin over many frames."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes: numbers, lists and strings only."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Statistics":
        """Make statistics of what `to_json` returned; `UsageError` where it is something else."""
        mean, std = (_numbers(stored.get(name)) for name in ("mean", "std"))
        if not mean or len(mean) != len(std) or min(std) < 0:
            raise UsageError(
                "these are no feature statistics: there should be as many finite numbers in `mean` as in `std`,"
                " none of `std` below 0; compute them again"
            )
        return Statistics(mean, std)


def _numbers(stored: object) -> tuple[float, ...]:
    numbers = stored if isinstance(stored, list) else []
    good = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    return tuple(float(number) for number in numbers) if good else ()


class DatasetNormalization(nn.Module):
    """Each bin to mean 0 and deviation 1 over a dataset: `(B, bins, frames)` float32 -> the same shape.

    As Kaldi's global cepstral mean and variance normalisation, which wekws and ESPnet use.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, statistics: Statistics, *, bins: int) -> None:
        super().__init__()
        if len(statistics.mean) != bins:
            raise UsageError(
                f"the statistics are of {len(statistics.mean)} feature bins and the features have {bins}:"
                " compute them again, with the settings of these features"
            )
        std = torch.tensor(statistics.std, dtype=torch.float64).clamp(min=_LEAST_DEVIATION)
        self.register_buffer("mean", torch.tensor(statistics.mean)[:, None], persistent=False)
        self.register_buffer("scale", std.reciprocal().float()[:, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each bin."""
        return (features - self.mean) * self.scale


@torch.no_grad()
def feature_statistics(features: nn.Module, batches_of_waves: Iterable[Tensor]) -> Statistics:
    """Return the mean and the deviation of each bin over all frames of all clips.

    `features`: waves `(B, T)` to `(B, 1, bins, frames)`, not normalised. One pass with sums in float64, on the device
    of the waves; the host waits for it once, at the end. How the clips are cut into batches makes no difference but
    for the rounding of float64.
    """
    total, squares, count = torch.zeros(1), torch.zeros(1), 0
    for wave in batches_of_waves:
        values = features(wave).double()
        # The first assignment also moves the sums to the device of the waves.
        total = total.to(values.device) + values.sum(dim=(0, 1, 3))
        squares = squares.to(values.device) + values.square().sum(dim=(0, 1, 3))
        count += values.shape[0] * values.shape[3]
    if count == 0:
        raise UsageError("there is no clip to compute feature statistics of: the training split is empty")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))
