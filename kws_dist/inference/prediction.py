"""What a model says about a clip, and about the clips of a longer recording."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kws_dist.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The probability of every word, by the softmax of the logits."""

    words: tuple[str, ...]
    """In label order."""
    scores: NDArray[np.float32]
    """`(words,)`; their sum is 1."""

    @property
    def word(self) -> str:
        """The most probable word."""
        return self.words[int(self.scores.argmax())]

    @property
    def score(self) -> float:
        """Its probability."""
        return float(self.scores.max())

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` most probable words, or all if there are fewer, with their probabilities, best first."""
        if k < 1:
            raise UsageError(f"the {k} most probable words: ask for 1 or more")
        order = np.argsort(-self.scores, kind="stable")[:k]  # of equals the first comes first, as in `word`
        return [(self.words[label], float(self.scores[label])) for label in order]

    def __repr__(self) -> str:
        """Show the best, not all."""
        return f"Prediction({self.word!r}, score={self.score:.4f})"


class Window(NamedTuple):
    """What is heard in a part of a longer recording."""

    start_s: float
    end_s: float
    prediction: Prediction


def merged(windows: Iterable[Window]) -> Iterator[Window]:
    """Make neighbours with the same word one: from the first's start to the last's end, with the surest prediction."""
    before: Window | None = None
    for window in windows:
        if before is None or window.prediction.word != before.prediction.word:
            if before is not None:
                yield before
            before = window
        else:
            best = max(before.prediction, window.prediction, key=lambda prediction: prediction.score)
            before = Window(before.start_s, window.end_s, best)
    if before is not None:
        yield before
