"""Training on shards behind a URL: the same run over a good server and a bad one, killed or not, on one rank or two."""

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_server import Answer, HostileServer, bytes_in, files_in, serving
from launching import SMALL, environment, python, run, two_ranks
from run_folders import assert_identical, result_without_times
from tiny_corpus import shards_of

from kws_dist.config import parse
from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.lanes import LaneSampler
from kws_dist.data.plans import lane_planner
from kws_dist.data.stream_store import StreamStore
from kws_dist.metrics_file import read_metrics
from kws_dist.training.data import open_data
from kws_dist.training.draws import training_sampler

GB = 1e9
BAD = {
    "train-000000.tar": [Answer(cut_bytes=3000, end="reset")],
    "train-000001.tar": [Answer(status=500)],
    "train-000002.tar": [Answer(change=lambda data: data[:3000] + b"?" + data[3001:])],
    "train-000003.tar": [Answer(cut_bytes=0)],
    "train-000000.idx": [Answer(change=lambda data: data[:-1])],
    "dataset.json": [Answer(status=503)],
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="module")
def many_shards(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset in 7 training shards of 3 clips."""
    return shards_of(tiny_archive, tmp_path_factory.mktemp("many") / "shards", shard_clips=3)


def limit_gb(folder: Path) -> float:
    """Room for all but two of the shards for training."""
    sizes = sorted(path.stat().st_size for path in folder.glob("train-*.tar"))
    return (sum(path.stat().st_size for path in folder.iterdir()) - sum(sizes[:2])) / GB


def settings(url: str, folder: Path, cache: Path, *more: str) -> list[str]:
    data = ("--data.shards", url, "--data.residency", "stream", "--data.lanes", "2", "--data.cache_dir", str(cache))
    return [*data, "--data.cache_gb", str(limit_gb(folder)), *SMALL, "--train.save_every_steps", "1", *more]


def train(url: str, folder: Path, at: Path, *more: str) -> list[str]:
    return python("launch/train.py", "--run_dir", at / "run", *settings(url, folder, at / "cache", *more))


@pytest.fixture(scope="module")
def good(many_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a good server."""
    at = tmp_path_factory.mktemp("good")
    with serving(files_in(many_shards)) as server:
        run(train(server.url, many_shards, at))
    return at / "run"


def test_a_run_over_a_bad_server_is_that_over_a_good_one_and_keeps_to_its_disk(
    good: Path, many_shards: Path, tmp_path: Path
) -> None:
    seen = []
    with serving(files_in(many_shards)) as server:
        server.answers.update({name: list(answers) for name, answers in BAD.items()})
        server.on_request = lambda _: seen.extend(bytes_in(folder) for folder in (tmp_path / "cache").glob("stream-*"))
        run(train(server.url, many_shards, tmp_path))
        assert not any(server.answers[name] for name in BAD), "all that is bad was met"
    assert max(seen) <= limit_gb(many_shards) * GB
    assert_identical(good, tmp_path / "run")
    assert result_without_times(good) == result_without_times(tmp_path / "run")


def test_a_run_that_was_killed_goes_on_over_the_cache_it_left(good: Path, many_shards: Path, tmp_path: Path) -> None:
    with serving(files_in(many_shards)) as server:
        command = train(server.url, many_shards, tmp_path)
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        while not (metrics := tmp_path / "run" / "metrics.jsonl").exists() or len(read_metrics(metrics)) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for shard in list((tmp_path / "cache").glob("*/train-*.tar"))[:1]:  # and the disk has suffered, too
            shard.write_bytes(shard.read_bytes()[:-700] + bytes(700))
        run(command)
    assert_identical(good, tmp_path / "run")


@pytest.mark.dist
def test_two_ranks_share_a_cache_and_evaluate_every_clip_once(good: Path, many_shards: Path, tmp_path: Path) -> None:
    with serving(files_in(many_shards)) as server:
        more = settings(server.url, many_shards, tmp_path / "cache", "--data.cache_gb", "1")
        run(two_ranks("launch/train.py", "--run_dir", tmp_path / "run", *more))
        assert {name: len(server.asked(name)) for name, _ in server.requests if name.endswith(".tar")} == {
            path.name: 1 for path in many_shards.glob("*.tar")
        }
    n = {split: result_without_times(tmp_path / "run")[split]["n"] for split in ("val", "test")}  # type: ignore[index]
    assert n == {split: result_without_times(good)[split]["n"] for split in ("val", "test")}  # type: ignore[index]


def test_the_draws_of_ranks_joined_are_those_of_one_and_each_fetches_only_its_own(
    many_shards: Path, tmp_path: Path
) -> None:
    """Two simulated ranks, with a cache each."""
    with serving(files_in(many_shards)) as server:
        rows = [drawn_by(server, many_shards, tmp_path / str(rank), rank, 2) for rank in range(2)]
        alone = drawn_by(server, many_shards, tmp_path / "alone", 0, 1)
    assert torch.equal(torch.cat([part for step in zip(*rows, strict=True) for part in step]), torch.cat(alone))


def drawn_by(server: HostileServer, folder: Path, cache: Path, rank: int, world: int) -> list[torch.Tensor]:
    """The PCM of a rank's batches of four steps."""
    config = parse(settings(server.url, folder, cache, "--data.cache_gb", "1"))
    data = open_data(config.data, torch.device("cpu"), ("train",))
    store = data.stores["train"]
    sampler = training_sampler(config, store.rows, data.dataset.words, streams=data.streams)
    assert isinstance(store, StreamStore)
    assert isinstance(sampler, LaneSampler)
    cut = BatchSlice(global_batch=12, rank=rank, world=world)
    store.keep(sampler.reservoir_clips())
    store.plan = lane_planner(sampler, store.rows, cut)
    batches = []
    for step in range(4):
        store.at_step(step)
        batches.append(store.gather(sampler.draws(cut.step_numbers(step)).clip))
        planned = {*store.plan(step).now}
        kept = np.isin(sampler.draws(cut.step_numbers(step)).clip, sampler.reservoir_clips())
        needed = store.rows.shard[sampler.draws(cut.step_numbers(step)).clip[~kept]]
        assert {*needed.tolist()} <= planned
    data.close()
    return batches


def test_a_url_that_fits_in_the_cache_is_fetched_once_and_then_as_good_as_a_folder(
    many_shards: Path, tmp_path: Path
) -> None:
    def opened(shards: str) -> tuple[torch.Tensor, bool]:
        config = parse(["--data.shards", shards, "--data.cache_dir", str(tmp_path), "--train.global_batch", "12"])
        data = open_data(config.data, torch.device("cpu"), ("train", "val", "test"))
        store = data.stores["train"]
        sampler = training_sampler(config, store.rows, data.dataset.words, streams=data.streams)
        pcm = store.gather(sampler.draws(np.arange(48)).clip)
        data.close()
        return pcm, data.streams

    folder, _ = opened(str(many_shards))
    with serving(files_in(many_shards)) as server:
        for _ in range(2):
            pcm, streams = opened(server.url)
            assert not streams
            assert torch.equal(pcm, folder)
        assert {len(server.asked(path.name)) for path in many_shards.glob("*.tar")} == {1}
