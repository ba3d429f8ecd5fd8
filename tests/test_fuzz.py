"""A hundred thousand inputs that somebody made up: every reader answers with a sentence, at once and in little memory.

An input that failed can be had again: the message names its target and its number, and `mutant` makes it from these.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, Target, answer
from limits import limits
from mutating import of_bytes, of_json


def mutant(target: Target, name: str, i: int) -> tuple[bytes, bool]:
    """Make the i-th input of a target; also returns whether its checksums were made right."""
    rng = random.Random(f"{name} {i}")
    valid = rng.choice(target.valid)
    data = of_json(valid, rng) if target.is_json and rng.random() < 0.7 else of_bytes(valid, target.valid, rng)
    is_sealed = target.seal is not None and rng.random() < 0.8
    return (target.seal(data) if target.seal and is_sealed else data), is_sealed


def test_there_are_a_hundred_thousand_inputs() -> None:
    assert sum(TARGETS.values()) >= 100_000


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
def test_whatever_is_read_the_answer_is_right_or_one_sentence(
    make: Callable[[Path, Path], Target], tiny_dataset: Path, tmp_path: Path
) -> None:
    target, name, told = make(tmp_path, tiny_dataset), make.__name__, 0
    right = [target.read(valid) for valid in target.valid] if target.is_proof else []
    with limits() as restart:
        for i in range(TARGETS[make]):
            data, is_sealed = mutant(target, name, i)
            restart()
            try:
                result, sentence = answer(target.read, data)
            except BaseException as error:
                raise AssertionError(f"input {i} of {name}, {data[:200]!r}: {error!r}") from error
            assert len(sentence.splitlines()) <= 1, f"input {i} of {name}, {data[:200]!r}: {sentence}"
            if target.is_proof and not is_sealed and not sentence:
                assert result in right, f"input {i} of {name} was taken, {data[:200]!r}"
            told += bool(sentence)
    assert told > TARGETS[make] / 10, "the inputs are too tame"
