"""Stores: the same samples wherever clips live, cut and padded as asked, and nothing damaged in silence."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_corpus import read_all, tone
from torch import Tensor

from kws_dist.corpus.clip import Samples
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.data.store import ClipPolicy, DeviceStore, HostStore, Residency, Store, open_store, read_noise
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.read import Rows, open_dataset

CPU = torch.device("cpu")
LONGEST = 910
"""Samples of the longest clip of the tiny dataset; the shortest has 800."""

RESIDENCIES: tuple[Residency, ...] = ("device", "host")
each_residency = pytest.mark.parametrize("residency", RESIDENCIES)


def open_split(root: Path, residency: Residency, split: str = "train", *, sizes: bool = True, **policy: Any) -> Store:
    """Open a split; `policy` as in the settings, clips as long as the longest unless `clip_samples` says so."""
    rows = open_dataset(root, check_sizes=sizes).rows(split)
    return open_store(rows, ClipPolicy(**{"clip_samples": LONGEST} | policy), residency=residency, device=CPU)


def everything(store: Store) -> Tensor:
    return store.gather(np.arange(len(store.rows)))


@pytest.fixture
def copy(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


def flip_a_sample(rows: Rows, clip: int) -> None:
    """Flip one bit in the middle of a clip's audio, on disk."""
    path, place = rows.shard_paths[rows.shard[clip]], int(rows.audio_offset[clip] + rows.audio_bytes[clip] // 2)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_every_row_is_the_clip_of_its_key(tiny_archive: Path, tiny_dataset: Path) -> None:
    audio = read_all(SpeechCommands(tiny_archive))
    store = open_split(tiny_dataset, "device")
    for key, pcm in zip(store.rows.keys, everything(store).numpy(), strict=True):
        np.testing.assert_array_equal(pcm[: len(audio[key])], audio[key])
        assert not pcm[len(audio[key]) :].any()


@given(
    clips=st.lists(st.integers(0, 20), max_size=40),
    clip_samples=st.integers(1, 1100),
    pad=st.sampled_from(["end", "center"]),
    long=st.sampled_from(["start", "center"]),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_device_and_host_give_the_same_bits(
    tiny_dataset: Path, clips: list[int], clip_samples: int, pad: str, long: str
) -> None:
    """Clips repeated and in any order, padded and cropped in any way."""
    number = np.array(clips, np.int64)
    device, host = (
        open_split(tiny_dataset, residency, clip_samples=clip_samples, pad=pad, long=long).gather(number)
        for residency in RESIDENCIES
    )
    assert device.dtype == host.dtype == torch.int16
    assert device.shape == host.shape == (len(clips), clip_samples)
    assert torch.equal(device, host)


@each_residency
def test_a_batch_is_not_changed_by_the_batches_after_it(tiny_dataset: Path, residency: Residency) -> None:
    store = open_split(tiny_dataset, residency)
    first = store.gather(np.array([3, 1]))
    before = first.clone()
    store.gather(np.array([5, 6])).zero_()
    first_again = store.gather(np.array([3, 1]))
    assert torch.equal(first, before)
    assert torch.equal(first_again, before)


def only_clip(root: Path, residency: Residency, **policy: Any) -> Samples:
    """The samples of the first training clip: the word "no" by speaker 5, 850 samples."""
    store = open_split(root, residency, **policy)
    assert store.rows.keys[0] == "no/00000005_nohash_0"
    assert store.rows.n_samples[0] == 850
    return store.gather(np.array([0])).numpy()[0]


@each_residency
def test_a_short_clip_is_padded_behind_or_on_both_sides(tiny_dataset: Path, residency: Residency) -> None:
    clip = tone(12 + 5, n_samples=850)
    at_end = only_clip(tiny_dataset, residency, clip_samples=1001, pad="end")
    np.testing.assert_array_equal(at_end, np.pad(clip, (0, 151)))
    centred = only_clip(tiny_dataset, residency, clip_samples=1001, pad="center")
    np.testing.assert_array_equal(centred, np.pad(clip, (75, 76)))


@each_residency
def test_a_long_clip_is_refused_or_cropped_where_asked(tiny_dataset: Path, residency: Residency) -> None:
    clip = tone(12 + 5, n_samples=850)
    start = only_clip(tiny_dataset, residency, clip_samples=801, long="start")
    np.testing.assert_array_equal(start, clip[:801])
    center = only_clip(tiny_dataset, residency, clip_samples=801, long="center")
    np.testing.assert_array_equal(center, clip[24:825])
    with pytest.raises(UsageError, match=r"18 clips, the first 'no/00000006.*--data\.long start or center"):
        open_split(tiny_dataset, residency, clip_samples=850)


def test_a_flipped_bit_is_refused_naming_shard_key_and_remedy(copy: Path) -> None:
    """In device memory when it is loaded, which is at once; from the host when the clip is first read."""
    rows = open_dataset(copy).rows("train")
    flip_a_sample(rows, 4)
    shard, key = rows.shard_paths[rows.shard[4]].name, rows.keys[4]
    says = rf"{shard}: clip '{key}' is damaged.*--data\.on_bad_clip skip"
    with pytest.raises(DataError, match=says):
        open_split(copy, "device")
    host = open_split(copy, "host")
    host.gather(np.array([0, 1, 2, 3, 5]))
    for _ in range(2):
        with pytest.raises(DataError, match=says):
            host.gather(np.array([3, 4]))


@each_residency
def test_damaged_clips_are_left_out_and_listed_when_asked(copy: Path, residency: Residency) -> None:
    whole = open_split(copy, residency)
    rows, samples = whole.rows, everything(whole).clone()
    for clip in (4, 9):
        flip_a_sample(rows, clip)
    store = open_split(copy, residency, on_bad_clip="skip")
    kept = [clip for clip in range(len(rows)) if clip not in (4, 9)]
    assert sorted(store.skipped_keys) == [rows.keys[4], rows.keys[9]]
    assert store.rows.keys == [rows.keys[clip] for clip in kept]
    assert store.rows.label.tolist() == rows.label[kept].tolist()
    assert torch.equal(everything(store), samples[kept])
    assert whole.skipped_keys == []


@each_residency
@pytest.mark.parametrize("left_bytes", [20_000, 0, None])
def test_the_clips_that_a_cut_or_missing_shard_lost_are_left_out_when_asked(
    copy: Path, residency: Residency, left_bytes: int | None
) -> None:
    path, rows = copy / "train-000001.tar", open_dataset(copy).rows("train")
    here = rows.shard == rows.shard_paths.index(path)
    past_the_cut = rows.record_offset + rows.record_bytes > (left_bytes or 0)
    lost = [rows.keys[i] for i in np.flatnonzero(here & past_the_cut)]
    assert 0 < len(lost) < here.sum() if left_bytes else len(lost) == here.sum()
    path.unlink() if left_bytes is None else os.truncate(path, left_bytes)
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        open_split(copy, residency)
    store = open_split(copy, residency, sizes=False, on_bad_clip="skip")
    assert sorted(store.skipped_keys) == lost
    assert store.rows.keys == [key for key in rows.keys if key not in lost]
    assert len(everything(store)) == len(rows) - len(lost)


def test_auto_chooses_where_clips_fit(tiny_dataset: Path) -> None:
    assert isinstance(open_split(tiny_dataset, "auto"), DeviceStore)
    rows = open_dataset(tiny_dataset).rows("train")
    policy = ClipPolicy(clip_samples=10**12)  # 21 clips of this length would take 42 TB
    assert isinstance(open_store(rows, policy, residency="auto", device=CPU), HostStore)


def test_noise_recordings_come_whole(tiny_dataset: Path) -> None:
    noise, skipped = read_noise(open_dataset(tiny_dataset).rows("noise"))
    assert skipped == []
    assert [recording.tolist() for recording in noise] == [tone(500 + n, n_samples=4000).tolist() for n in (0, 1)]
    assert all(recording.dtype == torch.int16 for recording in noise)


def test_damaged_noise_is_refused_or_left_out_and_listed(copy: Path) -> None:
    rows = open_dataset(copy).rows("noise")
    flip_a_sample(rows, 0)
    with pytest.raises(DataError, match=rf"noise-000000\.tar: clip '{rows.keys[0]}' is damaged"):
        read_noise(rows)
    noise, skipped = read_noise(rows, "skip")
    assert skipped == [rows.keys[0]]
    assert [recording.tolist() for recording in noise] == [tone(501, n_samples=4000).tolist()]


def test_no_noise_is_no_recordings(tiny_dataset: Path) -> None:
    rows = open_dataset(tiny_dataset).rows("noise")
    none = Rows(**{name: value if name == "shard_paths" else value[:0] for name, value in vars(rows).items()})
    assert read_noise(none) == ([], [])
