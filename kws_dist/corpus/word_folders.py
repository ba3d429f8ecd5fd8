"""What the path of a user's own recording says: `yes/anything.wav`, or `train/yes/...` and `test/yes/...`."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kws_dist.corpus.clip import NOISE_WORD
from kws_dist.corpus.naming import word_of
from kws_dist.corpus.splits import split_of_name
from kws_dist.errors import UsageError

_SHOWN = 3  # examples in an error


class Place(NamedTuple):
    """Where a recording belongs."""

    word: str
    """`_background_noise_` for noise."""
    split: str
    """Empty where there are no folders for splits, and for noise."""
    below: str
    """The rest of the path, below the word's folder."""


class Layout(NamedTuple):
    """How the folders are to be read."""

    top: str
    """The folder around everything, with its `/`; empty if there is none."""
    has_splits: bool

    def base_of(self, name: str) -> str:
        """Return the path of a recording without the folder around everything."""
        return name[len(self.top) :]

    def place_of(self, name: str) -> Place | None:
        """Return where a recording belongs, None if it lies in no word's folder."""
        folder, _, below = self.base_of(name).partition("/")
        split = ""
        if self.has_splits and folder != NOISE_WORD:
            split = split_of_name(folder) or ""
            folder, _, below = below.partition("/")
        if not below:
            return None
        word = word_of(folder)
        return Place(word, "" if word == NOISE_WORD else split, below)


def layout_of(names: Collection[str], words: Sequence[str], where: str) -> Layout:
    """Find out how the folders of all recordings are meant.

    A folder around everything is passed over, unless it is called like a split or one of the `words` asked for.
    Folders called like splits are splits if they hold folders. Raises `UsageError`, which begins with `where`, if
    others lie beside those.
    """
    top = ""
    while (outer := _outer_folder(names, top)) and split_of_name(outer) is None and outer not in (*words, NOISE_WORD):
        top += f"{outer}/"
    folders: dict[str, bool] = {}
    for name in names:
        folder, slash, below = name[len(top) :].partition("/")
        if slash and folder != NOISE_WORD:
            folders[folder] = folders.get(folder, False) or "/" in below
    splits = sorted(folder for folder, holds_folders in folders.items() if holds_folders and split_of_name(folder))
    others = sorted(set(folders).difference(splits))
    if splits and others:
        raise UsageError(
            f"{where}: {_listed(others)} beside {_listed(splits)}; put the folders of all words into folders for splits"
            " (train, val, test) or none of them"
        )
    return Layout(top, bool(splits))


def _outer_folder(names: Collection[str], top: str) -> str:
    """Return the one folder below `top` that holds every recording, most of them deeper; empty if there is none."""
    rests = [name[len(top) :] for name in names]
    outer = {rest.partition("/")[0] for rest in rests}
    return outer.pop() if len(outer) == 1 and any(rest.count("/") > 1 for rest in rests) else ""


def _listed(folders: Sequence[str]) -> str:
    shown = ", ".join(f"{folder}/" for folder in folders[:_SHOWN])
    return shown if len(folders) <= _SHOWN else f"{shown} and {len(folders) - _SHOWN} more"
