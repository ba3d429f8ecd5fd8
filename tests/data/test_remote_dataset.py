"""A dataset opened by its URL is the dataset there, whatever the server does and whatever is left of earlier runs."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile_server import Answer, HostileServer, files_in, serving

from kws_dist.data.received import Patience
from kws_dist.data.remote_dataset import open_remote
from kws_dist.data.shard_cache import ShardCache
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.read import Dataset, open_dataset

QUICK = Patience(connect_s=10.0, stall_s=10.0, attempts=5, first_wait_s=0.001)
ROOMY = 1 << 30
INDEX = "train-000001.idx"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server(tiny_dataset: Path) -> Iterator[HostileServer]:
    with serving(files_in(tiny_dataset)) as server:
        yield server


def opened(url: str, folder: Path, **options) -> tuple[Dataset, ShardCache]:
    return open_remote(url, folder, **{"limit_bytes": ROOMY, "patience": QUICK} | options)


def assert_same(dataset: Dataset, folder: Path) -> None:
    """All that the dataset knows of its clips is as in the folder, except where they lie."""
    local = open_dataset(folder)
    assert dataset.digest == local.digest
    for split in (*local.splits, "noise"):
        rows, expected = dataset.rows(split), local.rows(split)
        assert [path.name for path in rows.shard_paths] == [path.name for path in expected.shard_paths]
        for name, value in vars(expected).items():
            if name != "shard_paths":
                np.testing.assert_array_equal(getattr(rows, name), value, err_msg=name)


def test_a_dataset_is_opened_by_path_or_url_and_no_shard_is_fetched(
    tmp_path: Path, tiny_dataset: Path, server: HostileServer
) -> None:
    for number, url in enumerate([str(tiny_dataset), tiny_dataset.as_uri(), server.url, f"{server.url}/"]):
        dataset, _ = opened(url, tmp_path / str(number))
        assert_same(dataset, tiny_dataset)
    assert not [name for name, _ in server.requests if name.endswith(".tar")]


def test_opened_again_only_the_list_of_shards_is_asked_for(tmp_path: Path, server: HostileServer) -> None:
    opened(server.url, tmp_path)
    server.requests.clear()
    opened(f"{server.url}/?token=new", tmp_path)
    assert server.requests == [("dataset.json", "")]


def test_some_splits_can_be_had_whole_at_once(tmp_path: Path, tiny_dataset: Path, server: HostileServer) -> None:
    dataset, cache = opened(server.url, tmp_path)
    paths = dataset.rows("noise").shard_paths + dataset.rows("val").shard_paths
    cache.hold([path.name for path in paths])
    assert {path.name: path.read_bytes() for path in paths} == {
        path.name: (tiny_dataset / path.name).read_bytes() for path in paths
    }


def test_whatever_a_server_does_at_first_the_dataset_is_opened(
    tmp_path: Path, tiny_dataset: Path, server: HostileServer
) -> None:
    for name in server.files:
        server.answers[name] = [
            Answer(cut_bytes=100),
            Answer(status=500),
            Answer(change=lambda data: data.replace(b"a", b"b")),
            Answer(cut_bytes=0, end="stall"),
        ]
    dataset, _ = opened(server.url, tmp_path, patience=Patience(stall_s=0.3, attempts=12, first_wait_s=0.001))
    assert_same(dataset, tiny_dataset)


@pytest.mark.parametrize(
    ("name", "says"),
    [("dataset.json", r"data/dataset\.json: damaged"), (INDEX, rf"data/{INDEX}: given up .*wrong bytes")],
)
def test_what_stays_damaged_is_one_sentence(tmp_path: Path, server: HostileServer, name: str, says: str) -> None:
    server.files[name] = server.files[name].replace(b"e", b"?")
    with pytest.raises(DataError, match=says):
        opened(server.url, tmp_path)


def test_a_folder_without_a_dataset_is_one_sentence(tmp_path: Path, server: HostileServer) -> None:
    del server.files["dataset.json"]
    with pytest.raises(DataError, match=r"data/dataset\.json: the server answers 404"):
        opened(server.url, tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path}/none/dataset\.json: No such file"):
        opened(str(tmp_path / "none"), tmp_path)


def test_a_dataset_that_was_made_anew_takes_the_place_of_the_one_before(
    tmp_path: Path, tiny_dataset: Path, other_dataset: Path, server: HostileServer
) -> None:
    """Its indexes, and its shards under the same names; what it has not is not kept."""
    for folder in (other_dataset, tiny_dataset):
        server.files = files_in(folder)
        dataset, cache = opened(server.url, tmp_path)
        assert_same(dataset, folder)
        for path in dataset.rows("train").shard_paths[:2]:
            assert cache.get(path.name).read_bytes() == server.files[path.name]
        assert {path.name for path in dataset.root.glob("*.idx")} == {path.name for path in folder.glob("*.idx")}
        cache.close()


def test_without_its_server_the_copy_is_used_with_a_warning(
    tmp_path: Path, tiny_dataset: Path, server: HostileServer
) -> None:
    opened(server.url, tmp_path)
    server.otherwise = Answer(status=503)
    warnings = []
    dataset, _ = opened(server.url, tmp_path, on_warning=warnings.append)
    assert_same(dataset, tiny_dataset)
    assert [text.partition(" failed")[0].rpartition(": ")[2] for text in warnings[:-1]] == [
        "attempt 1 of 3",
        "attempt 2 of 3",
    ]
    assert f"{server.url}/dataset.json: given up after 3 attempts" in warnings[-1]
    assert f"goes on with what an earlier run left in {dataset.root}" in warnings[-1]
    with pytest.raises(DataError, match="given up after 5 attempts"):
        opened(server.url, tmp_path / "no copy")
    server.otherwise = Answer(status=403)  # somebody says no, which is not the same as nobody there
    with pytest.raises(DataError, match="403"):
        opened(server.url, tmp_path)


def test_what_was_damaged_in_the_cache_is_fetched_again(
    tmp_path: Path, tiny_dataset: Path, server: HostileServer
) -> None:
    dataset, _ = opened(server.url, tmp_path)
    (dataset.root / INDEX).write_bytes(b"damaged")
    (dataset.root / "val-000000.idx").unlink()
    (dataset.root / "dataset.json").write_text(json.dumps({}))
    server.requests.clear()
    dataset, _ = opened(server.url, tmp_path)
    assert_same(dataset, tiny_dataset)
    assert sorted(name for name, _ in server.requests) == ["dataset.json", INDEX, "val-000000.idx"]


def test_many_that_open_it_at_once_fetch_each_index_once(
    tmp_path: Path, tiny_dataset: Path, server: HostileServer
) -> None:
    ready = threading.Barrier(4)

    def open_one(_: int) -> Dataset:
        ready.wait()
        return opened(server.url, tmp_path)[0]

    with ThreadPoolExecutor(4) as pool:
        for dataset in pool.map(open_one, range(4)):
            assert_same(dataset, tiny_dataset)
    assert all(len(server.asked(name)) == 1 for name in server.files if name.endswith(".idx"))


def test_a_limit_that_has_no_room_for_the_indexes_is_a_usage_error(tmp_path: Path, server: HostileServer) -> None:
    with pytest.raises(UsageError, match=r"--data\.cache_gb 1e-05 is too small: .* are needed at once; raise it"):
        opened(server.url, tmp_path, limit_bytes=3_000)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 3_000


def test_the_indexes_come_before_shards_that_are_not_in_use(tmp_path: Path, server: HostileServer) -> None:
    """Of another dataset in the same cache."""
    dataset, cache = opened(server.url, tmp_path)
    for path in dataset.rows("train").shard_paths:
        cache.get(path.name)
    cache.close()
    taken = sum(path.stat().st_size for path in dataset.root.iterdir())
    opened(server.url.replace("/data", "/other"), tmp_path, limit_bytes=taken)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= taken
    shutil.rmtree(tmp_path)
