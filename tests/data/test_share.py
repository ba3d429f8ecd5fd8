"""Ranks that load a split together hold what one that loads it alone holds, and fail together."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from launching import ROOT, environment
from opening import LONGEST, everything, flip_a_sample, open_split
from torch import Tensor

from kws_dist.data.clip_reader import disk_order
from kws_dist.data.share import Share
from kws_dist.errors import DataError
from kws_dist.shards.read import Rows, open_dataset

CASES = [
    ("device", "error", "whole"),
    ("device", "error", "damaged"),
    ("device", "skip", "damaged"),
    ("host", "skip", "damaged"),
    ("device", "error", "missing"),
]


@pytest.fixture(scope="module")
def datasets(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dataset; one with a damaged clip in each rank's part; and one without the last rank's shard."""
    folder = tmp_path_factory.mktemp("share")
    made = {"whole": tiny_dataset} | {
        name: Path(shutil.copytree(tiny_dataset, folder / name)) for name in ("damaged", "missing")
    }
    rows = open_dataset(made["damaged"]).rows("train")
    for clip in first_and_last(rows):
        flip_a_sample(rows, clip)
    (made["missing"] / "train-000002.tar").unlink()
    return made


def first_and_last(rows: Rows) -> list[int]:
    """A clip that rank 0 reads, and one that rank 1 reads."""
    return disk_order(rows)[[2, -2]].tolist()


@pytest.fixture(scope="module")
def records(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each of two processes had in each case."""
    folder = tmp_path_factory.mktemp("records")
    cases = [f"{residency}:{on_bad_clip}:{datasets[name]}" for residency, on_bad_clip, name in CASES]
    ranks = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests/data/share_script.py", str(rank), folder / "meeting", folder, *cases],
            env=environment() | {"PYTHONPATH": str(ROOT)},
        )
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    return [
        [json.loads((folder / f"{number}-{rank}.json").read_text()) for rank in (0, 1)] for number in range(len(CASES))
    ]


def of_case(records: list[list[dict[str, Any]]], *case: str) -> list[dict[str, Any]]:
    return records[CASES.index(case)]  # type: ignore[arg-type]


@pytest.mark.dist
def test_two_processes_hold_what_one_holds(records: list[list[dict[str, Any]]], tiny_dataset: Path) -> None:
    alone = open_split(tiny_dataset, "device")
    for rank in of_case(records, "device", "error", "whole"):
        assert rank["keys"] == alone.rows.keys
        assert rank["pcm"] == everything(alone).tolist()


@pytest.mark.dist
def test_a_clip_damaged_in_one_part_is_the_same_error_in_both_processes(
    records: list[list[dict[str, Any]]], datasets: dict[str, Path]
) -> None:
    rows = open_dataset(datasets["damaged"]).rows("train")
    first, _ = first_and_last(rows)
    ranks = of_case(records, "device", "error", "damaged")
    assert ranks[0] == ranks[1]
    assert f"{rows.shard_paths[0]}: clip {rows.keys[first]!r} is damaged" in ranks[0]["error"]


@pytest.mark.dist
def test_a_shard_that_one_process_cannot_read_is_the_same_error_in_both(records: list[list[dict[str, Any]]]) -> None:
    ranks = of_case(records, "device", "error", "missing")
    assert ranks[0] == ranks[1]
    assert "train-000002.tar cannot be read (No such file or directory)" in ranks[0]["error"]


@pytest.mark.dist
@pytest.mark.parametrize("residency", ["device", "host"])
def test_both_processes_leave_out_what_either_found_damaged(
    records: list[list[dict[str, Any]]], datasets: dict[str, Path], residency: str
) -> None:
    rows = open_dataset(datasets["damaged"]).rows("train")
    bad = sorted(first_and_last(rows))
    whole = everything(open_split(datasets["whole"], "device"))
    for rank in of_case(records, residency, "skip", "damaged"):
        assert rank["skipped"] == [rows.keys[clip] for clip in bad]
        assert rank["keys"] == [key for key in rows.keys if key not in rank["skipped"]]
        assert rank["pcm"] == np.delete(whole.numpy(), bad, axis=0).tolist()


class Ranks:
    """Ranks that are threads of this process."""

    def __init__(self, world: int) -> None:
        self.world, self._barrier, self._given = world, Barrier(world), [torch.empty(0)] * world
        self.largest_bytes = 0

    def share(self, rank: int) -> Share:
        def all_gather(own: Tensor) -> Tensor:
            assert own.dtype == torch.uint8
            self._given[rank] = own
            self._barrier.wait(timeout=20)
            together = torch.stack(self._given)
            self.largest_bytes = max(self.largest_bytes, together.nbytes)
            self._barrier.wait(timeout=20)
            return together

        return Share(rank, self.world, all_gather)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("slice_bytes", [4 * 2 * LONGEST, 1 << 28])
def test_any_number_of_ranks_joins_its_parts_slice_by_slice(world: int, slice_bytes: int) -> None:
    """Also more ranks than the 21 clips, and slices of one row or of all."""
    whole = torch.arange(21 * LONGEST, dtype=torch.int16).reshape(21, LONGEST)
    order, ranks = np.random.default_rng(world).permutation(21), Ranks(world)

    def joined(rank: int) -> Tensor:
        share = ranks.share(rank)
        mine = share.part(order, rank)
        pcm = torch.full_like(whole, -7)
        pcm[mine] = whole[mine]
        share.join(pcm, order, slice_bytes=slice_bytes)
        return pcm

    with ThreadPoolExecutor(world) as pool:
        for pcm in pool.map(joined, range(world)):
            assert torch.equal(pcm, whole)
    assert ranks.largest_bytes <= max(slice_bytes, 2 * LONGEST * world)


def test_every_rank_raises_the_error_of_the_lowest_that_failed() -> None:
    ranks = Ranks(3)

    def failed(rank: int) -> str:
        def read() -> np.ndarray:
            if rank == 0:
                return np.zeros(0, np.int64)
            raise DataError(f"shard {rank} is damaged — really")

        with pytest.raises(DataError) as error:
            ranks.share(rank).settle(read, 21, torch.device("cpu"))
        return str(error.value)

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(failed, range(3))) == {"shard 1 is damaged — really"}
