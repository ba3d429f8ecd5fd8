"""A stream gives the samples that the host store gives, whatever its server does; it costs time, never correctness."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_server import Answer, HostileServer, bytes_in, files_in, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_corpus import shards_of
from torch import Tensor

from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.data.cache_folder import locked
from kws_dist.data.clip_reader import ClipPolicy
from kws_dist.data.received import Patience
from kws_dist.data.remote_dataset import open_remote
from kws_dist.data.store import open_store
from kws_dist.data.stream_store import Plan, StreamStore
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import open_dataset
from kws_dist.shards.write import write_dataset

CPU = torch.device("cpu")
LONGEST = 910
"""Samples of the longest clip of the tiny dataset; the shortest has 800."""
QUICK = Patience(connect_s=10.0, stall_s=10.0, attempts=4, first_wait_s=0.001)
ROOMY = 1 << 30
NEVER = Plan([], [])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="session")
def many_shards(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset in 7 training shards of 3 clips."""
    return shards_of(tiny_archive, tmp_path_factory.mktemp("many") / "shards", shard_clips=3)


@pytest.fixture
def server(many_shards: Path) -> Iterator[HostileServer]:
    with serving(files_in(many_shards)) as server:
        yield server


class Stream:
    """A stream of the training split, and what is needed to look at it."""

    def __init__(self, url: str, folder: Path, plan: Callable[[int], Plan], **options: Any) -> None:
        cache_options = {name: options.pop(name) for name in ("limit_bytes", "sharers") if name in options}
        cache_options = {"limit_bytes": ROOMY, "patience": options.pop("patience", QUICK)} | cache_options
        threads = options.pop("threads", 2)
        dataset, self.cache = open_remote(url, folder, **cache_options)
        self.root, self.rows = dataset.root, dataset.rows("train")
        policy = ClipPolicy(**{"clip_samples": LONGEST} | options)
        self.store = StreamStore(self.rows, policy, CPU, self.cache, plan, threads=threads)

    def clips_of(self, *shards: int) -> np.ndarray:
        """The numbers of all clips of some shards."""
        return np.flatnonzero(np.isin(self.rows.shard, shards))

    def there(self) -> list[int]:
        """The shards that are in the cache."""
        return [number for number, path in enumerate(self.rows.shard_paths) if path.exists()]

    def mapped(self) -> list[int]:
        """The shards that this process has mapped, as the system says."""
        maps = Path("/proc/self/maps").read_text()
        return [number for number, path in enumerate(self.rows.shard_paths) if str(path) in maps]

    def size_bytes(self) -> int:
        """The size of all files in the cache at one moment, temporary ones included."""
        with locked(self.root.parent):
            return bytes_in(self.root)


def reference(folder: Path, **policy: Any) -> Tensor:
    """Every clip, as the host store gives it."""
    rows = open_dataset(folder).rows("train")
    store = open_store(rows, ClipPolicy(**{"clip_samples": LONGEST} | policy), residency="host", device=CPU)
    return store.gather(np.arange(len(rows)))


def in_turn(step: int) -> Plan:
    """One shard a step, and all others soon."""
    return Plan([step % 7], [(step + ahead) % 7 for ahead in range(1, 7)])


def shard_bytes(folder: Path) -> int:
    """The size of the largest training shard."""
    return max(path.stat().st_size for path in folder.glob("train-*.tar"))


def fixed_bytes(folder: Path) -> int:
    """What a cache needs besides shards."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".idx", ".json"))


BAD = {
    "drops": [Answer(cut_bytes=5000), Answer(cut_bytes=1, end="reset")],
    "stalls": [Answer(cut_bytes=3000, end="stall")],
    "drips": [Answer(cut_bytes=3000, end="drip")],
    "is busy": [Answer(status=500), Answer(status=503), Answer(status=429)],
    "lies": [Answer(change=lambda data: data[::-1]), Answer(change=lambda data: data[:3000] + b"?" + data[3001:])],
    "sends another length": [Answer(change=lambda data: data[:-512]), Answer(change=lambda data: data * 2)],
    "knows no ranges": [
        Answer(cut_bytes=5000, ranges=False),
        Answer(cut_bytes=9000, ranges=False),
        Answer(ranges=False),
    ],
    "has another object first": [Answer(change=lambda data: data[::-1], cut_bytes=5000), Answer(cut_bytes=5000)],
    "tells no length": [Answer(cut_bytes=5000, with_length=False), Answer(with_length=False)],
}


@pytest.mark.parametrize("bad", BAD)
def test_over_a_server_that(bad: str, tmp_path: Path, many_shards: Path, server: HostileServer) -> None:
    """... every gather is that of the host store on the good folder, and the disk limit is never passed."""
    limit_bytes, expected, seen = fixed_bytes(many_shards) + 3 * shard_bytes(many_shards), reference(many_shards), []
    patience = Patience(stall_s=0.2 if bad in ("stalls", "drips") else 10.0, attempts=8, first_wait_s=0.001)
    stream = Stream(server.url, tmp_path, in_turn, limit_bytes=limit_bytes, patience=patience)
    for path in stream.rows.shard_paths:
        server.answers[path.name] = list(BAD[bad])
    server.on_request = lambda _: seen.append(stream.size_bytes())
    for step in range(9):
        stream.store.at_step(step)
        clips = np.flip(stream.clips_of(step % 7)).copy()
        assert torch.equal(stream.store.gather(clips), expected[clips])
        seen.append(stream.size_bytes())
    stream.store.close()
    assert max(seen) <= limit_bytes
    assert len(server.requests) > 7 + 9


def test_a_server_where_shards_are_missing_for_a_while(
    tmp_path: Path, many_shards: Path, server: HostileServer
) -> None:
    """What is needed is missed at once; what is needed only later may come until then."""
    stream = Stream(server.url, tmp_path, lambda step: [Plan([0], [1]), Plan([1], [])][step], threads=1)
    for name in ("train-000000.tar", "train-000001.tar"):
        server.answers[name] = [Answer(status=404)]
    stream.store.at_step(0)
    with pytest.raises(DataError, match=r"data/train-000000\.tar: the server answers 404 .*; check the address"):
        stream.store.gather(stream.clips_of(0))
    expected = reference(many_shards)
    assert torch.equal(stream.store.gather(stream.clips_of(0)), expected[stream.clips_of(0)])
    while server.answers["train-000001.tar"]:
        stream.store.gather(stream.clips_of(0))
    stream.store.at_step(1)
    assert torch.equal(stream.store.gather(stream.clips_of(1)), expected[stream.clips_of(1)])
    stream.store.close()


@pytest.mark.parametrize("codec", ["wav", "flac"])
@given(
    clips=st.lists(st.integers(0, 20), max_size=40),
    clip_samples=st.integers(1, 1100),
    pad=st.sampled_from(["end", "center"]),
    long=st.sampled_from(["start", "center"]),
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_clips_in_any_order_and_length_are_those_of_the_host_store(
    codecs: dict[str, Path], tmp_path: Path, codec: str, clips: list[int], clip_samples: int, pad: str, long: str
) -> None:
    """With no plan at all: everything is fetched on demand."""
    policy = {"clip_samples": clip_samples, "pad": pad, "long": long}
    stream = Stream(str(codecs[codec]), tmp_path / codec, lambda _: NEVER, **policy)
    gathered = stream.store.gather(np.array(clips, np.int64))
    stream.store.close()
    assert gathered.dtype == torch.int16
    assert gathered.shape == (len(clips), clip_samples)
    assert torch.equal(gathered, reference(codecs[codec], **policy)[clips])


@pytest.fixture(scope="session")
def codecs(many_shards: Path, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    flac, source = tmp_path_factory.mktemp("flac") / "shards", SpeechCommands(tiny_archive)
    write_dataset(source, make_plan(source, shard_clips=3, seed=0, codec="flac"), flac, task="tiny", command=["make"])
    return {"wav": many_shards, "flac": flac}


def test_shards_are_fetched_ahead_and_none_outside_the_plan(
    tmp_path: Path, many_shards: Path, server: HostileServer
) -> None:
    """What a step needs comes first, and when it is gathered nothing is asked for any more."""
    stream = Stream(server.url, tmp_path, lambda _: Plan([2], [4, 1]), threads=1)
    server.requests.clear()
    stream.store.at_step(0)
    everything = [2, 4, 1]
    while len(stream.mapped()) < 3:
        stream.store.at_step(0)
    assert [name for name, _ in server.requests] == [f"train-{number:06d}.tar" for number in everything]
    clips = stream.clips_of(*everything)
    assert torch.equal(stream.store.gather(clips), reference(many_shards)[clips])
    assert len(server.requests) == 3
    stream.store.close()


def test_only_the_shards_of_the_plan_stay_mapped(tmp_path: Path, server: HostileServer) -> None:
    plans = [Plan([0, 1], []), Plan([1, 2], []), Plan([3], [])]
    stream = Stream(server.url, tmp_path, plans.__getitem__)
    for step, plan in enumerate(plans):
        stream.store.at_step(step)
        stream.store.gather(stream.clips_of(*plan.now))
        assert stream.mapped() == plan.now
    stream.store.close()
    assert stream.mapped() == []
    assert stream.there() == [0, 1, 2, 3]


def test_as_much_is_fetched_ahead_as_the_limit_allows(tmp_path: Path, many_shards: Path, server: HostileServer) -> None:
    limit_bytes = fixed_bytes(many_shards) + 4 * shard_bytes(many_shards)
    stream = Stream(server.url, tmp_path, in_turn, limit_bytes=limit_bytes)
    stream.store.at_step(0)
    while stream.mapped() != [0, 1, 2, 3]:
        stream.store.at_step(0)
    stream.store.close()
    assert stream.there() == [0, 1, 2, 3]


def test_a_wrong_plan_costs_time_and_nothing_else(tmp_path: Path, many_shards: Path, server: HostileServer) -> None:
    """With room for one shard only, and a batch that needs all but the one that the plan names."""
    limit_bytes, expected = fixed_bytes(many_shards) + shard_bytes(many_shards), reference(many_shards)
    stream = Stream(server.url, tmp_path, lambda _: Plan([6], [0, 1]), limit_bytes=limit_bytes)
    sizes = []
    server.on_request = lambda _: sizes.append(stream.size_bytes())
    clips = np.random.default_rng(0).permutation(stream.clips_of(0, 1, 2, 3, 4, 5))
    for step in range(3):
        stream.store.at_step(step)
        assert torch.equal(stream.store.gather(clips), expected[clips])
    stream.store.close()
    assert max(sizes) <= limit_bytes


def test_stores_that_share_a_cache_give_way_to_each_other(
    tmp_path: Path, many_shards: Path, server: HostileServer
) -> None:
    """Each with a plan that fills the limit, as those of a split for training and of one for evaluation."""
    limit_bytes, expected = fixed_bytes(many_shards) + 2 * shard_bytes(many_shards), reference(many_shards)
    stream = Stream(server.url, tmp_path, in_turn, limit_bytes=limit_bytes)
    other = StreamStore(
        stream.rows, ClipPolicy(clip_samples=LONGEST), CPU, stream.cache, lambda step: in_turn(step + 3)
    )
    sizes = []
    server.on_request = lambda _: sizes.append(stream.size_bytes())
    for step in range(4):
        for store, shard in ((stream.store, step), (other, step + 3)):
            store.at_step(step)
            clips = stream.clips_of(shard % 7)
            assert torch.equal(store.gather(clips), expected[clips])
    for store in (stream.store, other):
        store.close()
    assert max(sizes) <= limit_bytes


def test_a_limit_without_room_for_what_a_step_needs_is_told_with_the_numbers(
    tmp_path: Path, many_shards: Path, server: HostileServer
) -> None:
    limit_bytes = fixed_bytes(many_shards) + 2 * shard_bytes(many_shards)
    stream = Stream(server.url, tmp_path, lambda _: Plan([0, 1, 2, 3], []), limit_bytes=limit_bytes)
    with pytest.raises(UsageError) as caught:
        stream.store.at_step(0)
    says = str(caught.value)
    assert says.startswith("--data.cache_gb ")
    assert "is too small: the 4 shards that one step needs take" in says
    enough_bytes = round(float(says.rpartition(" ")[2]) * 1e9)
    stream = Stream(server.url, tmp_path, lambda _: Plan([0, 1, 2, 3], []), limit_bytes=enough_bytes)
    stream.store.at_step(0)
    assert len(stream.store.gather(stream.clips_of(0, 1, 2, 3))) == 12
    stream.store.close()


def test_a_server_that_never_recovers_ends_a_gather_with_one_sentence_in_the_time_given(
    tmp_path: Path, server: HostileServer
) -> None:
    patience = Patience(stall_s=0.2, attempts=3, first_wait_s=0.001)
    stream = Stream(server.url, tmp_path, in_turn, patience=patience)
    server.otherwise = Answer(cut_bytes=10, end="stall")
    stream.store.at_step(0)
    started_s = time.monotonic()
    for _ in range(2):
        with pytest.raises(DataError, match=r"train-000000\.tar: given up after 3 attempts .* 0\.2 s"):
            stream.store.gather(stream.clips_of(0))
    assert time.monotonic() - started_s < 10  # 1.2 s where nothing else runs
    server.otherwise = Answer()
    assert len(stream.store.gather(stream.clips_of(0))) == 3
    stream.store.close()


def test_a_shard_that_was_changed_while_it_was_used_is_fetched_again(
    tmp_path: Path, many_shards: Path, server: HostileServer
) -> None:
    stream = Stream(server.url, tmp_path, in_turn)
    stream.store.at_step(0)
    clips = stream.clips_of(0)
    stream.store.gather(clips[:1])
    with stream.rows.shard_paths[0].open("r+b") as file:
        file.seek(int(stream.rows.audio_offset[clips[-1]]) + 500)
        file.write(b"damage")
    assert torch.equal(stream.store.gather(clips), reference(many_shards)[clips])
    assert server.asked("train-000000.tar") == ["", ""]
    stream.store.close()


def test_a_shard_that_does_not_match_its_index_at_its_source_is_refused(tmp_path: Path, server: HostileServer) -> None:
    stream = Stream(server.url, tmp_path, in_turn)
    clip = int(stream.clips_of(0)[0])
    stream.rows.record_checksum[clip] ^= np.uint64(1)
    stream.store.at_step(0)
    with pytest.raises(DataError, match=rf"train-000000\.tar: clip '{stream.rows.keys[clip]}' is damaged"):
        stream.store.gather(np.array([clip]))
    stream.store.close()


def test_leaving_out_damaged_clips_is_refused(tmp_path: Path, many_shards: Path) -> None:
    with pytest.raises(UsageError, match=r"--data\.on_bad_clip skip does not go with --data\.residency stream"):
        Stream(str(many_shards), tmp_path, in_turn, on_bad_clip="skip")


def test_long_clips_are_refused_before_anything_is_fetched(tmp_path: Path, server: HostileServer) -> None:
    with pytest.raises(UsageError, match=r"--data\.long start or center"):
        Stream(server.url, tmp_path, in_turn, clip_samples=850)
    assert not [name for name, _ in server.requests if name.endswith(".tar")]


def test_a_batch_is_not_changed_by_what_comes_after_it(tmp_path: Path, many_shards: Path) -> None:
    stream = Stream(str(many_shards), tmp_path, lambda _: NEVER)
    first = stream.store.gather(np.array([3, 1]))
    before = first.clone()
    stream.store.gather(np.array([5, 6])).zero_()
    stream.store.close()
    shutil.rmtree(tmp_path)
    assert torch.equal(first, before)


def test_closing_does_not_wait_for_a_server(tmp_path: Path, server: HostileServer) -> None:
    stream = Stream(server.url, tmp_path, in_turn, patience=Patience())
    asked = threading.Event()
    server.otherwise, server.on_request = Answer(cut_bytes=10, end="stall"), lambda _: asked.set()
    stream.store.at_step(0)
    assert asked.wait(30)
    started_s = time.monotonic()
    stream.store.close()
    assert time.monotonic() - started_s < 20
    with pytest.raises(DataError, match="fetching was stopped"):
        stream.store.gather(stream.clips_of(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_on_the_gpu_are_those_on_the_cpu(tmp_path: Path, many_shards: Path) -> None:
    stream, rng = Stream(str(many_shards), tmp_path, lambda _: NEVER), np.random.default_rng(0)
    policy, expected = ClipPolicy(clip_samples=LONGEST), reference(many_shards)
    store = StreamStore(stream.rows, policy, torch.device("cuda"), stream.cache, lambda _: NEVER)
    batches = [rng.integers(0, 21, size) for size in (8, 1, 30, 8, 8, 0, 30)]
    gathered = [store.gather(clips) for clips in batches]
    for clips, pcm in zip(batches, gathered, strict=True):
        assert pcm.is_cuda
        assert torch.equal(pcm.cpu(), expected[clips])
