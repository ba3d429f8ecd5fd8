"""How often each class is drawn: shares, and the shortest block of draws that realises them."""

import numpy as np
from numpy.typing import NDArray

from kws_dist.errors import UsageError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST_BLOCK_DRAWS = 1 << 16
_LONGEST_EXACT_SEARCH_DRAWS = 1 << 12
_TOLERANCE = 0.01
_LARGEST_WEIGHT = 1e6


def class_shares(
    class_clips: Ints, *, balance: float, weights: Floats | None = None, max_share: Floats | None = None
) -> Floats:
    """Return the share of all draws that each class gets, `(C,)`, with sum 1.

    Proportional to `class_clips ** (1 - balance) * weights`, where no class gets more than its `max_share`: what
    is cut off goes to the others in proportion. A class of weight 0 is left out. Raises `UsageError` for nonsense.
    """
    weights = np.ones(len(class_clips)) if weights is None else weights
    _check(class_clips, balance, weights, np.ones(len(class_clips)) if max_share is None else max_share)
    share = np.where(weights > 0, class_clips.astype(np.float64) ** (1.0 - balance) * weights, 0.0)
    share /= share.sum()
    if max_share is None:
        return share
    capped = np.zeros(len(share), bool)
    while (share > max_share + 1e-12).any():
        capped |= share > max_share
        free_sum, rest = share[~capped].sum(), 1.0 - max_share[capped].sum()
        if free_sum == 0 or rest < 0:
            raise UsageError(
                f"--data.max_share: the words may have {max_share[share > 0].sum():.3g} of the draws together,"
                " which has to be 1 or more: allow some word a larger share"
            )
        share = np.where(capped, max_share, share * (rest / free_sum))
    return share


def block_quota(share: Floats, *, longest_draws: int = LONGEST_BLOCK_DRAWS) -> Ints:
    """Return how many draws of each class a block holds, `(C,)`: shares `(C,)` rounded by largest remainder.

    The block is the shortest up to 4,096 draws in which no class is off by more than 1 % of its share; failing
    that it has `longest_draws`. Equal shares make a block of one draw each. Every class with a share gets a draw.
    """
    classes = int((share > 0).sum())
    for length in range(classes, min(longest_draws, _LONGEST_EXACT_SEARCH_DRAWS) + 1):
        quota = _rounded(share, length)
        if (np.abs(quota - share * length) <= _TOLERANCE * share * length + 1e-9).all():
            return quota
    return _rounded(share, max(longest_draws, classes))


def _rounded(share: Floats, length: int) -> Ints:
    exact = share * length
    quota = np.maximum(np.floor(exact + 1e-9).astype(np.int64), share > 0)
    missing = length - int(quota.sum())
    if missing > 0:
        quota[np.argsort(quota - exact, kind="stable")[:missing]] += 1
    return quota


def _check(class_clips: Ints, balance: float, weights: Floats, max_share: Floats) -> None:
    if not 0.0 <= balance <= 1.0:
        raise UsageError(f"--data.balance {balance} is outside [0, 1]")
    if not (len(weights) == len(max_share) == len(class_clips)):
        raise UsageError(f"{len(weights)} weights and {len(max_share)} largest shares for {len(class_clips)} classes")
    if not ((weights >= 0) & (weights <= _LARGEST_WEIGHT)).all() or not (max_share > 0).all():
        raise UsageError(f"--data.weights should be from 0 to {_LARGEST_WEIGHT:g}, and --data.max_share above 0")
    drawn = weights > 0
    if not drawn.any():
        raise UsageError("--data.weights leaves every word out: give some word a weight above 0")
    if not class_clips[drawn].all():
        empty = int(np.flatnonzero(drawn & (class_clips == 0))[0])
        raise UsageError(f"no clip has label {empty}: every word that is to be drawn needs one")
