"""How clips are dealt over shards: balanced, in a seeded order that depends on nothing but seed and key."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.corpus.clip import Clip, Samples
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.plan import deal, make_plan


def clips_of(counts: Sequence[int], split: str = "train") -> list[Clip]:
    return [
        Clip(key=f"{split}{word}/{i}", word=f"w{word}", speaker=f"s{i % 7}", split=split, size_bytes=100)
        for word, count in enumerate(counts)
        for i in range(count)
    ]


class Listed:
    """A source that only lists; planning reads no audio."""

    def __init__(self, clips: Sequence[Clip], words: Sequence[str]) -> None:
        self.clips, self.words = sorted(clips, key=lambda clip: clip.key), words
        self.provenance = {"kind": "listed", "path": "a", "sha256": "b"}

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Samples]]:
        raise AssertionError(f"planning needs no audio, let alone {wanted}")


counts = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@given(counts=counts, shard_count=st.integers(1, 9), seed=st.integers(0, 3))
@settings(deadline=None)
def test_shards_differ_by_at_most_one_clip_and_one_clip_per_word(
    counts: list[int], shard_count: int, seed: int
) -> None:
    clips = clips_of(counts)
    hands = deal(clips, shard_count=shard_count, seed=seed)
    assert sorted(clip.key for hand in hands for clip in hand) == sorted(clip.key for clip in clips)
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
    for word in {clip.word for clip in clips}:
        per_shard = [sum(clip.word == word for clip in hand) for hand in hands]
        assert max(per_shard) - min(per_shard) <= 1


@given(counts=counts, shard_count=st.integers(1, 4), data=st.data())
@settings(deadline=None)
def test_any_prefix_of_a_shard_has_the_words_in_the_proportions_of_the_shard(
    counts: list[int], shard_count: int, data: st.DataObject
) -> None:
    for hand in deal(clips_of(counts), shard_count=shard_count, seed=0):
        length = data.draw(st.integers(0, len(hand)))
        total, prefix = Counter(c.word for c in hand), Counter(c.word for c in hand[:length])
        for word, of_word in total.items():
            share = of_word / len(hand)
            # Each word is within one clip of its place, so a prefix is at most `words` clips off in length.
            assert abs(prefix[word] - length * share) <= 1 + len(total) * share


def test_the_order_within_a_word_depends_only_on_seed_and_key() -> None:
    def order(clips: Sequence[Clip], seed: int) -> list[str]:
        return [clip.key for clip in deal(clips, shard_count=1, seed=seed)[0] if clip.word == "w0"]

    few, many = clips_of([30]), clips_of([30, 50, 20])
    assert order(few, 1) == order(many, 1) == order(many[::-1], 1)
    assert order(few, 1) != order(few, 2)
    assert order(few, 1) != sorted(order(few, 1))


def test_each_split_has_its_own_shards_of_at_most_the_size_asked_for() -> None:
    noise = [Clip(key=f"n/{i}", word="_background_noise_", speaker="", split="noise", size_bytes=9) for i in range(17)]
    clips = [*clips_of([25, 25]), *clips_of([5, 4], "val"), *noise]
    plan = make_plan(Listed(clips, ["w0", "w1"]), shard_clips=20, seed=0)
    sizes = [(shard.name, len(shard.clips)) for shard in plan.shards]
    train = [("train-000000.tar", 17), ("train-000001.tar", 17), ("train-000002.tar", 16)]
    assert sizes == [*train, ("val-000000.tar", 9), ("noise-000000.tar", 9), ("noise-000001.tar", 8)]


def test_plans_are_equal_when_and_only_when_everything_that_decides_the_bytes_is() -> None:
    def plan_id(counts: Sequence[int] = (9, 9), words: Sequence[str] = ("w0", "w1"), **change: object) -> str:
        source = Listed(clips_of(counts), words)
        source.provenance |= {k: str(v) for k, v in change.items() if k in ("path", "sha256")}
        numbers = {"shard_clips": 5, "seed": 0} | {k: v for k, v in change.items() if k in ("shard_clips", "seed")}
        return make_plan(source, **numbers).id  # type: ignore[arg-type]

    assert plan_id() == plan_id(path="renamed.tar.gz")
    others = [
        plan_id((9, 8)),
        plan_id(words=("w1", "w0")),
        plan_id(sha256="c"),
        plan_id(seed=1),
        plan_id(shard_clips=6),
    ]
    assert len({plan_id(), *others}) == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key": "a.b"}, "letters, digits"),
        ({"key": "../a"}, "letters, digits"),
        ({"key": "train0/1"}, "used twice"),
        ({"word": "other"}, "not in the vocabulary"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"speaker": "a\0b"}, "cannot be printed"),
    ],
)
def test_a_source_that_breaks_its_promise_is_an_error_naming_the_clip(change: dict[str, str], says: str) -> None:
    odd = Clip(**{"key": "odd", "word": "w0", "speaker": "", "split": "train", "size_bytes": 1} | change)
    with pytest.raises(DataError, match=f"clip '{odd.key}': .*{says}"):
        make_plan(Listed([*clips_of([3]), odd], ["w0"]), shard_clips=5, seed=0)


def test_a_shard_must_hold_at_least_one_clip() -> None:
    with pytest.raises(UsageError, match="--shard_clips 0"):
        make_plan(Listed(clips_of([3]), ["w0"]), shard_clips=0, seed=0)
