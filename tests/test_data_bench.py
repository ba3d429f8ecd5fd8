"""The benchmark of reading: every way that it compares hands out the clips, and the figures say which is which."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kws_dist.data.clip_reader import ClipPolicy
from kws_dist.data.store import DeviceStore
from kws_dist.data_bench import bench_data, show, ways_to_read
from kws_dist.shards.read import open_dataset

OURS = {"device", "device, gather alone", "host", "host, gather alone"}


def test_every_way_reads_all_clips_and_nothing_else(tiny_dataset: Path) -> None:
    rows, policy = open_dataset(tiny_dataset).rows("train"), ClipPolicy(clip_samples=1000)
    stored = DeviceStore(rows, policy, torch.device("cpu")).gather(np.arange(len(rows)))
    expected = {row.tobytes() for row in stored.numpy()}
    ways = ways_to_read(rows, policy, batch=8)
    assert set(ways) > OURS
    assert {name.partition(",")[0] for name in set(ways) - OURS} == {"memcpy", "map-style", "webdataset"}
    for name, way in ways.items():
        batches, seen = way(), set[bytes]()
        for _ in range(100):
            pcm = next(batches)
            assert pcm.dtype == torch.int16, name
            seen |= {row.tobytes() for row in pcm.numpy()}
            if len(seen) == len(expected):
                break
        assert seen == expected, name


def test_the_figures_of_a_short_run(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_data(tiny_dataset, rounds=1, batch=4, clips=60)
    speed = result["clips_per_s"]
    assert result["to_memcpy"] == {name: rate / speed["memcpy"] for name, rate in speed.items()}
    best = max(rate for name, rate in speed.items() if name.startswith("webdataset"))
    assert result["to_webdataset"]["host"] == speed["host"] / best
    show(result)
    printed = capsys.readouterr().out
    assert "60 clips of 32,000 bytes" in printed
    assert all(name in printed for name in speed)


def test_without_webdataset_its_rows_are_left_out_with_a_word(
    tiny_dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    result = bench_data(tiny_dataset, rounds=1, batch=4, clips=60)
    assert not any("webdataset" in name for name in result["clips_per_s"])
    show(result)
    assert "webdataset is not installed, so it is left out: pip install webdataset" in capsys.readouterr().out
