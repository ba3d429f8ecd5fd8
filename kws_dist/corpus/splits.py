"""Which recordings are for training, for validation and for test, where the corpus does not say so itself.

Every word is shared out alike, whole speakers are kept together, and nothing depends on the order of the listing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import xxhash

from kws_dist.corpus.clip import SPLITS
from kws_dist.corpus.speaker_groups import assign_groups
from kws_dist.errors import UsageError

DEFAULT_SHARES = "80/10/10"
_SPLIT_OF_NAME = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_NAMES = tuple(_SPLIT_OF_NAME)
"""What people call the splits."""


class Spoken(NamedTuple):
    """As much of a recording as decides its split."""

    name: str
    """Unique among the recordings."""
    word: str
    speaker: str = ""
    """Empty where unknown; the recording then goes where it likes."""


def split_of_name(name: str) -> str | None:
    """Return `train`, `val` or `test` for what people call them (`dev`, `Validation` ...), None for other names."""
    return _SPLIT_OF_NAME.get(name.strip().lower())


def parse_shares(text: str) -> dict[str, float]:
    """Return the share of each split, adding up to 1, from `80/10/10`: train, val, test; a share of 0 is left out."""
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS) or not all(0 <= share < math.inf for share in shares) or not any(shares):
        raise UsageError(
            f"--split {text}: not three shares for train, val and test; write e.g. --split {DEFAULT_SHARES}"
        )
    return {split: share / sum(shares) for split, share in zip(SPLITS, shares, strict=True) if share}


def assign_splits(
    recordings: Sequence[Spoken], shares: Mapping[str, float], speakers_from: str = "--speaker_from"
) -> dict[str, str]:
    """Return the split of every recording, by name; `speakers_from` is what tells the speakers, for the errors.

    Each word is divided as nearly by the shares as whole speakers allow: without speakers to within one recording,
    with at least one in every split. Raises `UsageError` naming a word that cannot be in all of the splits.
    """
    splits = [split for split in SPLITS if split in shares]
    of_speaker: dict[str, list[Spoken]] = defaultdict(list)
    loose: dict[str, list[Spoken]] = defaultdict(list)
    for one in sorted(set(recordings), key=lambda one: (_hash(one.name), one.name)):
        (of_speaker[one.speaker] if one.speaker else loose[one.word]).append(one)
    total = Counter(one.word for group in (*of_speaker.values(), *loose.values()) for one in group)
    _check_enough(total, {word: len(loose[word]) for word in total}, of_speaker, splits, speakers_from)
    order = sorted(of_speaker, key=lambda speaker: (-len(of_speaker[speaker]), _hash(speaker), speaker))
    groups = assign_groups(
        [Counter(one.word for one in of_speaker[speaker]) for speaker in order],
        {word: [shares[split] * count for split in splits] for word, count in total.items()},
        {word: len(loose[word]) for word in total},
    )
    split_of_speaker = {speaker: splits[place] for speaker, place in zip(order, groups, strict=True)}
    held = Counter((one.word, split_of_speaker[speaker]) for speaker in order for one in of_speaker[speaker])
    assigned = {one.name: split_of_speaker[speaker] for speaker in order for one in of_speaker[speaker]}
    for word, ones in loose.items():
        places = _filled(len(ones), {s: (shares[s] * total[word], held[word, s]) for s in splits})
        assigned |= {one.name: split for one, split in zip(ones, places, strict=True)}
        held.update((word, split) for split in places)
    _check_present({(word, split): held[word, split] for word in total for split in splits}, splits, speakers_from)
    return assigned


def check_splits(recordings: Sequence[Spoken], split_of: Mapping[str, str], where: str) -> int:
    """Check splits that the user's folders or lists give; return how many speakers are in more than one of them.

    Raises `UsageError`, which begins with `where`, naming a word that is in one of the splits and not in another.
    """
    words = sorted({one.word for one in recordings})
    held = Counter((one.word, split_of[one.name]) for one in recordings)
    splits = [split for split in SPLITS if split in split_of.values()]
    absent = next(((word, split) for word in words for split in splits if not held[word, split]), None)
    if absent:
        has = " and ".join(split for split in splits if held[absent[0], split])
        raise UsageError(
            f"{where}: the word {absent[0]!r} has recordings in {has} and none in {absent[1]};"
            f" add some, or choose words without it by --words"
        )
    heard = {(one.speaker, split_of[one.name]) for one in recordings if one.speaker}
    return sum(count > 1 for count in Counter(speaker for speaker, _ in heard).values())


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(errors="surrogateescape"))


def _filled(count: int, wanted: Mapping[str, tuple[float, int]]) -> list[str]:
    """Return splits for `count` recordings of a word; `wanted` says how many each should hold in the end, and holds.

    First a recording for every split that has none, then each for the split that lacks most, which ends within one
    recording of what is wanted. Those for test come first, so that more recordings later change it least.
    """
    got = dict.fromkeys(wanted, 0)
    for split in sorted(wanted, key=lambda split: -wanted[split][0]):
        if wanted[split][1] == 0 and sum(got.values()) < count:
            got[split] = 1
    while sum(got.values()) < count:
        neediest = max(wanted, key=lambda split: wanted[split][0] - wanted[split][1] - got[split])
        got[neediest] += 1
    return [split for split in reversed(SPLITS) for _ in range(got.get(split, 0))]


def _check_enough(
    total: Mapping[str, int],
    loose: Mapping[str, int],
    of_speaker: Mapping[str, Sequence[Spoken]],
    splits: Sequence[str],
    speakers_from: str,
) -> None:
    """Raise `UsageError` for a word with fewer recordings, or fewer speakers, than there are splits."""
    speakers = Counter(word for group in of_speaker.values() for word in {one.word for one in group})
    for word in sorted(total):
        if total[word] < len(splits):
            raise UsageError(
                f"the word {word!r} has {_counted(total[word], 'recording')}, too few for {_listed(splits)}; add some,"
                f" choose words without it by --words, or ask for fewer splits ({_fewer(total[word])})"
            )
        if loose[word] + speakers[word] < len(splits):
            who = _counted(speakers[word], "speaker")
            raise UsageError(
                f"{who} cannot fill {len(splits)} splits: the word {word!r} is spoken by {who}, and each is kept in one"
                f" of {_listed(splits)}; pass {_fewer(speakers[word])}, or leave {speakers_from} out"
            )


def _check_present(held: Mapping[tuple[str, str], int], splits: Sequence[str], speakers_from: str) -> None:
    absent = next((pair for pair in sorted(held) if not held[pair]), None)
    if absent:
        raise UsageError(
            f"no way was found to keep every speaker in one of {_listed(splits)} with every word in each: the word"
            f" {absent[0]!r} would be missing in {absent[1]}; ask for fewer splits ({_fewer(2)}), choose words without"
            f" it by --words, or leave {speakers_from} out"
        )


def _fewer(splits: int) -> str:
    return "--split 50/0/50" if splits > 1 else "--split 100/0/0"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _listed(splits: Sequence[str]) -> str:
    return ", ".join(splits[:-1]) + f" and {splits[-1]}" if len(splits) > 1 else splits[0]
