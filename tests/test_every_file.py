"""Whatever happens to a file of a dataset, who reads it says which one in one sentence, and trains on none of it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import permission_denied
from launching import SMALL, environment, python

from kws_dist.config import DataConfig
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.verify import verify
from kws_dist.training.data import open_data

SPLITS = ("train", "val", "test")
Samples = list[torch.Tensor]


def flipped(data: bytes, place: int) -> bytes:
    broken = bytearray(data)
    broken[place] ^= 0x10
    return bytes(broken)


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "cut after a byte": lambda data: data[:1],
    "cut in its header": lambda data: data[:100],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut before its end": lambda data: data[:-2],
    "a bit flipped in its first byte": lambda data: flipped(data, 0),
    "a bit flipped in the middle": lambda data: flipped(data, len(data) // 2),
    "a bit flipped near its end": lambda data: flipped(data, len(data) - 1100 if len(data) > 2000 else len(data) - 3),
    "zeros in its place": lambda data: bytes(len(data)),
    "noise in its place": lambda data: np.random.default_rng(0).bytes(len(data)),
}
"""What can be in a file in place of what was written."""


@contextmanager
def other_content(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


@contextmanager
def deleted(path: Path) -> Iterator[None]:
    aside = path.rename(path.parent.parent / path.name)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def a_folder_in_its_place(path: Path) -> Iterator[None]:
    with deleted(path):
        path.mkdir()
        try:
            yield
        finally:
            path.rmdir()


OTHERS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "deleted": deleted,
    "a folder in its place": a_folder_in_its_place,
    "permission denied": permission_denied,
}
"""What else can happen to a file."""


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path) -> Iterator[Path]:
    """A dataset where every user may read it, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        root = shutil.copytree(tiny_dataset, Path(folder) / "shards")
        root.chmod(0o755)
        yield root


def train_on(root: Path, residency: Any) -> Samples:
    """Open a dataset as training does, and read every clip of it."""
    with tempfile.TemporaryDirectory() as cache:
        config = DataConfig(shards=str(root), residency=residency, cache_dir=cache, fetch_attempts=1)
        data = open_data(config, torch.device("cpu"), SPLITS)
        try:
            clips = [data.stores[split].gather(np.arange(len(data.stores[split].rows))) for split in SPLITS]
        finally:
            data.close()
        return [*clips, *data.noise]


def doctor(root: Path) -> None:
    """Verify a dataset, and raise the first fault."""
    for fault in verify(root).faults:
        raise DataError(fault.sentence)


READERS: dict[str, Callable[[Path], object]] = {
    "training from memory": lambda root: train_on(root, "device"),
    "training from mapped files": lambda root: train_on(root, "host"),
    "training from a stream": lambda root: train_on(root, "stream"),
    "the doctor": doctor,
}


def files_of(root: Path) -> list[Path]:
    files = [path for path in sorted(root.iterdir()) if path.suffix in (".tar", ".idx") or path.name == "dataset.json"]
    assert len(files) == 15
    return files


def named(read: Callable[[Path], object], root: Path) -> str:
    """Return the sentence with which a dataset is refused."""
    with pytest.raises((DataError, UsageError)) as caught:
        read(root)
    sentence = str(caught.value)
    assert sentence.isprintable(), sentence
    return sentence


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", [*CONTENTS, *OTHERS])
def test_any_damage_to_any_file_is_one_sentence_that_names_it(whole: Path, damage: str, reader: str) -> None:
    for path in files_of(whole):
        change = CONTENTS.get(damage)
        with other_content(path, change) if change else OTHERS[damage](path):
            assert path.name in named(READERS[reader], whole)
    READERS[reader](whole)  # all is as it was


@pytest.mark.parametrize("reader", READERS)
def test_the_file_of_another_shard_or_dataset_in_its_place_is_one_sentence(
    whole: Path, other_dataset: Path, reader: str
) -> None:
    shards = [path.with_suffix("") for path in files_of(whole) if path.suffix == ".tar"]
    strangers = {other_dataset / "dataset.json": whole / "dataset.json"}
    for suffix in (".tar", ".idx"):
        paths = [path.with_suffix(suffix) for path in shards]
        strangers |= {other_dataset / path.name: path for path in paths}
        strangers |= dict(zip(paths, [*paths[1:], paths[0]], strict=True))
    for stranger, path in strangers.items():
        content = stranger.read_bytes()
        if content != path.read_bytes():
            with other_content(path, lambda _, content=content: content):
                sentence = named(READERS[reader], whole)
            assert path.name in sentence or path.name == "dataset.json", sentence  # which then lists other indexes


@pytest.mark.parametrize("residency", ["device", "host", "stream"])
def test_damage_behind_the_last_clip_of_a_shard_changes_nothing_that_is_trained_on(whole: Path, residency: str) -> None:
    undamaged = train_on(whole, residency)
    path = whole / "train-000001.tar"
    with other_content(path, lambda data: flipped(data, len(data) - 1)):
        if residency == "stream":  # which fetches whole files, and knows their checksums
            assert path.name in named(lambda root: train_on(root, residency), whole)
        else:
            again = train_on(whole, residency)
            assert all(torch.equal(a, b) for a, b in zip(undamaged, again, strict=True))
        assert path.name in named(doctor, whole)


@pytest.mark.parametrize(
    ("name", "damage", "code"),
    [
        ("train-000001.tar", "permission denied", 1),
        ("val-000000.idx", "permission denied", 1),
        ("test-000000.tar", "deleted", 1),
        ("dataset.json", "a folder in its place", 2),
    ],
)
def test_the_training_command_ends_with_that_sentence(
    whole: Path, tmp_path: Path, name: str, damage: str, code: int
) -> None:
    command = python("launch/train.py", "--data.shards", whole, "--run_dir", tmp_path / "run", *SMALL)
    with OTHERS[damage](whole / name):
        os.seteuid(os.getuid())  # for another user may not even find the code
        if os.getuid() == 0:  # root gives up the right to read what is denied, and nothing else
            command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    [sentence] = done.stderr.strip().splitlines()
    assert str(whole) in sentence
    assert name in sentence
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
