"""Which recordings a task uses, and as which words; pure functions of their names, so that no audio is needed.

The 12-class rule is that of TensorFlow, examples/speech_commands/input_data.py: in each split, silence and unknown
words are 10 % of the keyword clips each, rounded up. There the unknown clips depend on the order in which the file
system lists them; here they are the first ones in the order of a hash of their names.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import xxhash

from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SILENCE_WORD, SPLITS, UNKNOWN_WORD
from kws_dist.corpus.layout import word_of
from kws_dist.errors import UsageError

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_OTHERS_OF_BOTH = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow"),
)
_OTHERS_OF_V2 = ("backward", "follow", "forward", "learn", "visual")
V1_WORDS = tuple(sorted((*KEYWORDS, *_OTHERS_OF_BOTH)))
V2_WORDS = tuple(sorted((*V1_WORDS, *_OTHERS_OF_V2)))

Unknown = Literal["none", "rule", "all"]
"""What becomes of words outside the vocabulary: left out, as many as the 12-class rule says, or all of them."""

_ORDER = 59185  # the seed of the original rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A vocabulary, and what is to be told apart from it."""

    name: str = ""
    """Empty for words that somebody chose."""
    words: tuple[str, ...]
    """The words to be told apart, without `_silence_` and `_unknown_`."""
    unknown: Unknown = "none"
    silence: bool = False
    """Whether stretches of noise are a class of their own, by the 12-class rule."""
    version: str = ""
    """The version of Speech Commands that it is for; empty for any."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All words in label order."""
        return (*self.special, *self.words)

    @property
    def flag(self) -> str:
        """What a user asks for it with."""
        return f"--task {self.name}" if self.name else "--words"

    @property
    def special(self) -> tuple[str, ...]:
        """Those of `_silence_` and `_unknown_` that it has."""
        return (SILENCE_WORD,) * self.silence + (UNKNOWN_WORD,) * (self.unknown != "none")


TASKS = {
    task.name: task
    for task in (
        Task(name="v1-30", words=V1_WORDS, version="0.01"),
        Task(name="v2-35", words=V2_WORDS, version="0.02"),
        Task(name="v1-12", words=KEYWORDS, unknown="rule", silence=True, version="0.01"),
        Task(name="v2-12", words=KEYWORDS, unknown="rule", silence=True, version="0.02"),
        Task(name="v2-10", words=KEYWORDS, version="0.02"),
    )
}


def task_called(name: str) -> Task:
    """Return a task of `TASKS`; raises `UsageError` listing them."""
    if name not in TASKS:
        raise UsageError(f"--task {name}: there is no such task; choose one of {', '.join(TASKS)}, or --words")
    return TASKS[name]


def task_of_words(words: Sequence[str], *, unknown: Unknown = "none", silence: bool = False) -> Task:
    """Return the task of telling `words` apart; raises `UsageError` for a word that comes twice, or none."""
    task = Task(words=tuple(words), unknown=unknown, silence=silence)
    if not words:
        raise UsageError("--words: no word given")
    twice = next((word for word, count in Counter(task.words).items() if count > 1), None)
    if twice:
        raise UsageError(f"--words: {twice!r} is given twice")
    taken = next((word for word in task.special if word in words), None)
    if taken:
        raise UsageError(
            f"--words: {taken!r} is a folder of recordings here, and --unknown or --silence would make"
            " another class of that name; leave out the word or the flag"
        )
    return task


def check_words(task: Task, there: Collection[str], where: str) -> None:
    """Raise `UsageError` unless `there`, the words in `where`, are what the task needs."""
    missing = [word for word in task.words if word not in there]
    if missing:
        raise UsageError(
            f"{task.flag}: no recordings of {', '.join(map(repr, missing))} in {where};"
            f" the words there are: {', '.join(sorted(there))}"
        )
    newer = sorted(set(_OTHERS_OF_V2) & set(there))
    if task.version == "0.01" and newer:
        raise UsageError(
            f"{task.flag} is for version 0.01, and {where} has words of 0.02 ({', '.join(newer)});"
            f" use --task {'v2-12' if task.silence else 'v2-35'}, or --words"
        )
    if task.unknown != "none" and not set(there) - {*task.words, SILENCE_WORD}:
        raise UsageError(f"{task.flag}: {where} has no other words, of which {UNKNOWN_WORD} could be made")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a task uses of a corpus."""

    words: dict[str, str]
    """The label word of every recording used, by name; noise recordings are used always."""
    silence: dict[str, int]
    """How many clips of silence are wanted in each split; empty if the task has none."""
    notes: list[str]
    """Where there are fewer recordings than the rule asks for."""


def choose(task: Task, split_of: Mapping[str, str]) -> Choice:
    """Choose the recordings of a task; `split_of` is the split of every recording, by name.

    Unknown words come from the same split, so that no speaker crosses; which ones depends on nothing but their names.
    """
    noise = [name for name, split in split_of.items() if split == NOISE_SPLIT]
    keywords = [name for name in split_of if word_of(name) in task.words]
    asked = _tenths(split_of[name] for name in keywords)
    unknown, notes = _unknown(task, split_of, asked)
    words = {name: word_of(name) for name in (*keywords, *noise)} | dict.fromkeys(unknown, UNKNOWN_WORD)
    return Choice(words=words, silence=asked if task.silence else {}, notes=notes)


def _unknown(task: Task, split_of: Mapping[str, str], asked: Mapping[str, int]) -> tuple[list[str], list[str]]:
    if task.unknown == "none":
        return [], []
    no_others = {*task.words, SILENCE_WORD, NOISE_WORD}
    others = [name for name in split_of if word_of(name) not in no_others]
    if task.unknown == "all":
        return others, []
    chosen, notes = list[str](), list[str]()
    for split, wanted in asked.items():
        there = sorted((name for name in others if split_of[name] == split), key=_order)
        if len(there) < wanted:
            notes.append(f"{split}: {UNKNOWN_WORD} has {len(there)} clips, all there are; the rule asks for {wanted}")
        chosen += there[:wanted]
    return chosen, notes


def _tenths(splits: Iterable[str]) -> dict[str, int]:
    """Return 10 % of the clips in each split, rounded up: as many as the rule asks of silence and of unknown words."""
    counts = Counter(splits)
    return {split: -(-counts[split] // 10) for split in SPLITS}


def _order(name: str) -> tuple[int, str]:
    return xxhash.xxh3_64_intdigest(name.encode(), seed=_ORDER), name
