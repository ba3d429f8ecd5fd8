"""How sure an accuracy is: the score interval of E. B. Wilson, "Probable inference, the law of succession, and
statistical inference", Journal of the American Statistical Association 22 (1927), pages 209-212.
"""

import math


def wilson_interval(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the lowest and highest accuracy that `correct` right answers out of `n` are compatible with.

    `z` is the normal quantile of the confidence: 1.96 for 95 %. Unlike `p +- z * sqrt(p (1 - p) / n)`, it stays
    within [0, 1] and has a width even at 0 and at `n` right answers. Without any answer it is [0, 1].
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right answers out of {n} is not possible")
    if n == 0:
        return 0.0, 1.0
    accuracy = correct / n
    weight = z * z / n
    centre = (accuracy + weight / 2) / (1 + weight)
    half_width = math.sqrt(weight * (accuracy * (1 - accuracy) + weight / 4)) / (1 + weight)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)
