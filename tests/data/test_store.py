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
from opening import CPU, LONGEST, everything, flip_a_sample, open_split
from tiny_corpus import read_all, tone

from kws_dist.corpus.clip import Samples
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.data.clip_reader import select
from kws_dist.data.device_store import without
from kws_dist.data.store import ClipPolicy, DeviceStore, HostStore, Residency, free_bytes, open_store, read_noise
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import Rows, open_dataset
from kws_dist.shards.write import write_dataset

RESIDENCIES: tuple[Residency, ...] = ("device", "host")
each_residency = pytest.mark.parametrize("residency", RESIDENCIES)


@pytest.fixture(scope="module")
def flac_dataset(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset with its audio as FLAC."""
    source, out = SpeechCommands(tiny_archive), tmp_path_factory.mktemp("flac") / "shards"
    plan = make_plan(source, shard_clips=8, seed=0, codec="flac")
    write_dataset(source, plan, out, task="tiny", command=["make", "it"])
    return out


@pytest.fixture
def copy(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


def test_every_row_is_the_clip_of_its_key(tiny_archive: Path, tiny_dataset: Path) -> None:
    audio = read_all(SpeechCommands(tiny_archive))
    store = open_split(tiny_dataset, "device")
    for key, pcm in zip(store.rows.keys, everything(store).numpy(), strict=True):
        np.testing.assert_array_equal(pcm[: len(audio[key])], audio[key])
        assert not pcm[len(audio[key]) :].any()


@given(
    clips=st.lists(st.integers(0, 20), max_size=40),
    clip_samples=st.integers(1, 3000),
    pad=st.sampled_from(["end", "center"]),
    long=st.sampled_from(["start", "center"]),
    codec=st.sampled_from(["wav", "flac"]),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_device_and_host_give_the_same_bits(
    tiny_dataset: Path, flac_dataset: Path, clips: list[int], clip_samples: int, pad: str, long: str, codec: str
) -> None:
    """Clips repeated and in any order, padded and cropped in any way, from WAV and from FLAC."""
    number, policy = np.array(clips, np.int64), {"clip_samples": clip_samples, "pad": pad, "long": long}
    device = open_split(tiny_dataset, "device", **policy).gather(number)
    host = open_split(tiny_dataset if codec == "wav" else flac_dataset, "host", **policy).gather(number)
    assert device.dtype == host.dtype == torch.int16
    assert device.shape == host.shape == (len(clips), clip_samples)
    assert torch.equal(device, host)


@each_residency
def test_flac_holds_what_wav_holds(tiny_dataset: Path, flac_dataset: Path, residency: Residency) -> None:
    wav, flac = (open_split(root, residency) for root in (tiny_dataset, flac_dataset))
    assert wav.rows.keys == flac.rows.keys
    assert torch.equal(everything(wav), everything(flac))


@each_residency
def test_clip_numbers_may_come_as_a_tensor(tiny_dataset: Path, residency: Residency) -> None:
    store, number = open_split(tiny_dataset, residency), np.array([4, 0, 4, 20])
    assert torch.equal(store.gather(torch.from_numpy(number)), store.gather(number))
    assert store.on_device == (residency == "device")


@pytest.mark.parametrize("clip_samples", [LONGEST, 600_000])
def test_threads_load_what_one_thread_loads(tiny_dataset: Path, clip_samples: int) -> None:
    """Also with rows so long that a thread reads one clip at a time."""
    rows, policy = open_dataset(tiny_dataset).rows("train"), ClipPolicy(clip_samples=clip_samples)
    one, eight = (DeviceStore(rows, policy, CPU, threads=threads) for threads in (1, 8))
    assert torch.equal(everything(one), everything(eight))


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_gather_what_is_there(tiny_dataset: Path, threads: int) -> None:
    """A batch so large that it is divided among all threads of the store."""
    rows, policy = open_dataset(tiny_dataset).rows("train"), ClipPolicy(clip_samples=LONGEST)
    number = np.random.default_rng(0).integers(0, len(rows), 10_000)
    torch_threads = torch.get_num_threads()
    gathered = HostStore(rows, policy, CPU, threads=threads).gather(number)
    assert torch.equal(gathered, open_split(tiny_dataset, "device").gather(number))
    assert torch.get_num_threads() == torch_threads


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


def test_leaving_out_moves_many_rows_in_place(tiny_dataset: Path) -> None:
    rows = select(open_dataset(tiny_dataset).rows("train"), np.arange(1000) % 21)
    pcm = torch.arange(1000, dtype=torch.int16)[:, None].expand(1000, 3).clone()
    damaged = np.array([0, 1, 300, 511, 512, 999])
    kept_rows, keys, kept = without(rows, pcm, damaged)
    keep = np.delete(np.arange(1000), damaged)
    assert kept[:, 0].tolist() == keep.tolist()
    assert kept.data_ptr() == pcm.data_ptr()
    assert kept_rows.keys == [rows.keys[clip] for clip in keep]
    assert keys == [rows.keys[clip] for clip in damaged]


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


def test_auto_is_the_device_while_clips_take_at_most_the_stated_share_of_what_is_free(tiny_dataset: Path) -> None:
    rows, policy = open_dataset(tiny_dataset).rows("train"), ClipPolicy(clip_samples=1000)

    def chosen(**memory: Any) -> type:
        return type(open_store(rows, policy, residency="auto", device=CPU, **memory))

    need = len(rows) * 2000
    assert chosen(memory_bytes=2 * need) is DeviceStore
    assert chosen(memory_bytes=2 * need - 2) is HostStore
    assert chosen(memory_bytes=10 * need, device_memory_share=0.1) is DeviceStore
    assert chosen(memory_bytes=10 * need, device_memory_share=0.09) is HostStore
    assert chosen() is DeviceStore


def test_memory_that_holds_copies_of_files_counts_as_free() -> None:
    assert os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.5 < free_bytes(CPU)
    assert free_bytes(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_flac_that_no_disk_has_room_for_is_refused(flac_dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"needs 42000\.0 GB in .* TMPDIR, or make the shards with --codec wav"):
        open_split(flac_dataset, "host", clip_samples=10**12)


@each_residency
def test_a_shard_that_cannot_be_read_is_refused_naming_it(copy: Path, residency: Residency) -> None:
    (copy / "train-000001.tar").unlink()
    (copy / "train-000001.tar").mkdir()
    with pytest.raises(DataError, match=r"train-000001\.tar cannot be read \(Is a directory\)"):
        open_split(copy, residency, sizes=False)


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
