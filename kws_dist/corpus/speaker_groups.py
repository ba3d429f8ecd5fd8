"""Whole speakers divided among splits, so that every word is in each split and the sizes are near to those wanted."""

from collections.abc import Mapping, Sequence

import numpy as np

_MAX_REPAIRS = 400
_MAX_PASSES = 3
_REST = 4  # steps for which a speaker stays where a repair has put him, so that repairs do not go in circles


def assign_groups(
    groups: Sequence[Mapping[str, int]], wanted: Mapping[str, Sequence[float]], loose: Mapping[str, int]
) -> list[int]:
    """Return the split, as its place in the lists of `wanted`, of every group, in which order they are dealt.

    `groups`: how many recordings of each word a speaker has; `wanted`: how many of each word each split should
    hold, more than zero; `loose`: how many of each word belong to no group, so that they can fill a gap later.
    """
    dealing = _Dealing(groups, wanted, loose)
    for group in range(len(groups)):
        dealing.put(group, dealing.best(group, range(dealing.splits))[1])
    dealing.repair()
    for _ in range(_MAX_PASSES):
        if not dealing.improve():
            break
    return dealing.place


class _Dealing:
    """Where every group is, and what that is worth."""

    def __init__(
        self, groups: Sequence[Mapping[str, int]], wanted: Mapping[str, Sequence[float]], loose: Mapping[str, int]
    ) -> None:
        self._row = {word: row for row, word in enumerate(sorted(wanted))}
        self._rows = [np.array([self._row[word] for word in sorted(group)]) for group in groups]
        self._counts = [np.array([group[word] for word in sorted(group)], float) for group in groups]
        self._wanted = np.array([wanted[word] for word in self._row]).reshape(len(self._row), -1)
        self._held = np.zeros_like(self._wanted)
        self._loose = np.array([loose[word] for word in self._row])
        self.splits = self._wanted.shape[1]
        self.place = [-1] * len(groups)
        self._gaps_matter = False

    def put(self, group: int, split: int) -> None:
        """Move a group from where it is, if anywhere, to a split."""
        self._take(group)
        self._held[self._rows[group], split] += self._counts[group]
        self.place[group] = split

    def best(self, group: int, splits: Sequence[int]) -> tuple[tuple[int, float], int]:
        """Return the best of some splits for a group, after what it would change by (see `_badness`)."""
        before, old = self._badness(group), self.place[group]
        changes = []
        for split in splits:
            self.put(group, split)
            after = self._badness(group)
            changes.append(((after[0] - before[0], after[1] - before[1]), split))
        self._take(group)
        if old >= 0:
            self.put(group, old)
        return min(changes)

    def repair(self) -> None:
        """Move groups, each time where that is best, until every word is in every split or no way is found."""
        self._gaps_matter = True
        rested: list[int] = []
        for _ in range(_MAX_REPAIRS):
            gap = next((gap for gap in np.argwhere(self._held == 0).tolist() if self._is_open(gap[0])), None)
            if gap is None:
                return
            row, split = gap
            free = [group for group in self._speaking(row) if group not in rested[-_REST:]]
            if free:
                group = min(free, key=lambda group: self.best(group, [split]))
                self.put(group, split)
                rested.append(group)
            elif rested:
                rested.clear()
            else:
                return

    def improve(self) -> bool:
        """Move every group that is better elsewhere, the smallest first; return whether one was."""
        moved = False
        for group in reversed(range(len(self.place))):
            others = [split for split in range(self.splits) if split != self.place[group]]
            if others:
                change, split = self.best(group, others)
                if change < (0, -1e-9):
                    self.put(group, split)
                    moved = True
        return moved

    def _take(self, group: int) -> None:
        if self.place[group] >= 0:
            self._held[self._rows[group], self.place[group]] -= self._counts[group]
            self.place[group] = -1

    def _badness(self, group: int) -> tuple[int, float]:
        """How many splits lack one of the group's words, and the chi-square distance from what is wanted."""
        rows = self._rows[group]
        held, wanted = self._held[rows], self._wanted[rows]
        gaps = int(np.maximum((held == 0).sum(axis=1) - self._loose[rows], 0).sum()) if self._gaps_matter else 0
        return gaps, float(((held - wanted) ** 2 / wanted).sum())

    def _is_open(self, row: int) -> bool:
        return int((self._held[row] == 0).sum()) > self._loose[row]

    def _speaking(self, row: int) -> list[int]:
        return [group for group, rows in enumerate(self._rows) if row in rows]
