"""What is read of files that somebody else may have made, and how: the targets of `test_fuzz.py`."""

import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import own_recordings
import tiny_corpus
import torch
import xxhash

from kws_dist.corpus import audio
from kws_dist.corpus.manifest_rows import read_rows
from kws_dist.corpus.tar import TarArchive
from kws_dist.corpus.wav import samples_of_wav
from kws_dist.corpus.zip import ZipArchive
from kws_dist.errors import DataError, UsageError
from kws_dist.run import RunFolder
from kws_dist.settings_file import read_settings
from kws_dist.shards.codec import encode
from kws_dist.shards.index import load_index
from kws_dist.shards.meta import load_meta
from kws_dist.shards.read import open_dataset
from kws_dist.shards.record import padded, tar_header
from kws_dist.shards.unfinished import load_unfinished
from kws_dist.shards.verify_clip import clip_check
from kws_dist.training import checkpoint

MODES: tuple[own_recordings.Mode, ...] = ("CONSTANT", "VARIABLE")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader and what it reads."""

    valid: list[bytes]
    """What is changed to make inputs."""
    read: Callable[[bytes], object]
    """Read an input; what it returns says what was understood."""
    seal: Callable[[bytes], bytes] | None = None
    """Makes the checksums right again, to reach what is behind them."""
    is_proof: bool = False
    """Whether what is taken without that is what was written, because its checksums see every change."""
    is_json: bool = False


def answer(read: Callable[[bytes], object], data: bytes) -> tuple[object, str]:
    """Return what a reader understood, or the sentence that it answers with."""
    try:
        return read(data), ""
    except (DataError, UsageError) as error:
        return None, str(error)


def sealed_index(data: bytes) -> bytes:
    return data[:-8] + struct.pack("<Q", xxhash.xxh3_64_intdigest(data[:-8]))


def sealed_json(data: bytes) -> bytes:
    try:
        fields = json.loads(data)
        fields.pop("checksum", None)
        checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        return json.dumps(fields | {"checksum": checksum}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data


def sealed_tar(data: bytes) -> bytes:
    """Make the checksum of every tar header right."""
    made = bytearray(data)
    for first in range(0, len(made) - 511, 512):
        if made[first + 257 : first + 262] == b"ustar":
            made[first + 148 : first + 156] = b" " * 8
            made[first + 148 : first + 156] = b"%06o\0 " % sum(made[first : first + 512])
    return bytes(made)


def from_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    path.touch()

    def read_file(data: bytes) -> object:
        with path.open("r+b") as file:  # emptying it first would have some disks flush it each time
            file.write(data)
            file.truncate()
        return read(path)

    return read_file


def index(folder: Path, dataset: Path) -> Target:
    valid = [path.read_bytes() for path in sorted(dataset.glob("*.idx"))]

    def read(path: Path) -> object:
        found, _ = load_index(path)
        ends = found.rows["record_offset"].astype(object) + found.rows["record_bytes"]
        assert all(found.rows["audio_offset"].astype(object) + found.rows["audio_bytes"] <= ends)
        assert len(set(found.keys)) == len(found.keys) == len(found.rows)
        return found.keys, found.rows.tobytes()

    return Target(valid=valid, read=from_file(folder / "train-000000.idx", read), seal=sealed_index, is_proof=True)


def dataset_json(folder: Path, dataset: Path) -> Target:
    valid = [(dataset / "dataset.json").read_bytes()]
    read = from_file(folder / "dataset.json", load_meta)
    return Target(valid=valid, read=read, seal=sealed_json, is_proof=True, is_json=True)


def opened(folder: Path, dataset: Path) -> Target:
    """`dataset.json` among the shards that it describes."""
    root = shutil.copytree(dataset, folder / "shards")

    def read(path: Path) -> object:
        found = open_dataset(path.parent)
        return found.words, found.digest, [found.rows(split).keys for split in found.splits]

    valid = [(root / "dataset.json").read_bytes()]
    return Target(
        valid=valid, read=from_file(root / "dataset.json", read), seal=sealed_json, is_proof=True, is_json=True
    )


def unfinished_json(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    valid = json.dumps(
        {
            "plan": "ab" * 16, "state": "x", "shards": [["train-000000.tar", 5]], "words": ["yes"], "task": "t",
            "codec": "wav", "seed": 0, "source": {}, "command": ["make", "it"],
            "rejected": [{"name": "a", "reason": "b", "word": "c", "split": "train"}],
        }
    )  # fmt: skip
    root = folder / "shards"
    root.mkdir()
    read = from_file(root / "unfinished.json", lambda path: (load_unfinished(path.parent), open_dataset(path.parent)))
    return Target(valid=[valid.encode()], read=read, is_json=True)


def record(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    """A clip in a shard, of which every checksum is right: only what it says can tell."""
    path = dataset / "train-000000.tar"
    rows, _ = load_index(path.with_suffix(".idx"))
    check = clip_check(rows, ("no", "up", "yes"))
    first, last = int(rows.rows["record_offset"][1]), int(rows.rows["record_offset"][2])
    valid = path.read_bytes()[first:last]

    def read(data: bytes) -> object:
        if what := check(1, memoryview(valid[:-1024] + data)):
            raise DataError(what)
        return None

    return Target(valid=[valid[-1024:]], read=read, seal=sealed_tar)


def labels(folder: Path, dataset: Path) -> Target:
    """The `.json` of a clip, in a member that fits."""
    of_record = record(folder, dataset)
    text = of_record.valid[0][512:].rstrip(b"\0")
    name = of_record.valid[0][:100].rstrip(b"\0").decode()

    def read(data: bytes) -> object:
        return of_record.read(tar_header(name, len(data)) + data.ljust(padded(len(data)), b"\0"))

    return Target(valid=[text], read=read, is_json=True)


def wav(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    forms = [{}, {"rate_hz": 8000}, {"channels": 2}, {"sample_bytes": 1}]
    valid = [tiny_corpus.wav_file(tiny_corpus.tone(i, 60), **form) for i, form in enumerate(forms)]
    extra = b"LIST" + struct.pack("<I", 5) + b"INFO\0\0"
    valid.append(valid[0][:12] + extra + valid[0][12:])

    def read(data: bytes) -> object:
        answer(lambda data: samples_of_wav(data, "x"), data)
        return listed_and_decoded(data)

    return Target(valid=valid, read=read)


def flac(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    valid = [encode(tiny_corpus.tone(i, n), "flac") for i, n in enumerate((60, 5000))]
    return Target(valid=valid, read=lambda data: len(audio.decode(data, "x")))


def mp3(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    noise = np.random.default_rng(0).standard_normal(3000) / 10
    counted = [own_recordings.mp3(noise, rate_hz, mode) for rate_hz in (8000, 44_100) for mode in MODES]
    bare = [own_recordings.without_count(content) for content in counted]
    tagged = [counted[0] + b"TAG" + bytes(125) + counted[0], b"ID3\3\0\0\0\0\0\x20" + bytes(32) + bare[1]]
    return Target(valid=[*counted, *bare, *tagged], read=listed_and_decoded)


def ogg(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    valid = [own_recordings.encoded(own_recordings.sine(0.2), 16_000, "OGG", subtype) for subtype in ("VORBIS", "OPUS")]
    return Target(valid=valid, read=listed_and_decoded)


def listed_and_decoded(data: bytes) -> None:
    answer(lambda data: audio.audio_form(io.BytesIO(data), len(data), "x"), data)
    samples = audio.decode(data, "x")
    assert (samples.dtype, samples.ndim) == (np.int16, 1)


def tar(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    return Target(
        valid=archives(), read=from_file(folder / "a.tar", lambda path: read_all(TarArchive(path))), seal=sealed_tar
    )


def archives() -> list[bytes]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as writer:
            for name in ("yes/a.wav", f"no/{'long' * 23}.wav", "_background_noise_/ü.wav"):
                tiny_corpus.add(writer, tarfile.TarInfo(name), b"x" * 30)
        made.append(file.getvalue()[:7168])
    return [*made, gzip.compress(made[0], mtime=0)]


def zipped(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, method in (("yes/a.wav", 0), ("no/ü.wav", 8), ("up/", 0)):
            writer.writestr(name, b"x" * 30, method)
    read = from_file(folder / "a.zip", lambda path: read_all(ZipArchive(path)))
    return Target(valid=[file.getvalue()], read=read)


def read_all(archive: TarArchive | ZipArchive) -> object:
    names = list(archive.scan(lambda _: lambda file: file.read(10)).size_bytes)
    assert not any(name.startswith("/") or ".." in name.split("/") for name in names)
    with archive.staged(names, archive.path.parent):
        return {name: archive.read(name) for name in names}


def manifest(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    """`manifest.json` of a checkpoint that is whole."""
    path = saved(folder)
    valid = [(path / checkpoint.MANIFEST).read_bytes()]
    return Target(valid=valid, read=from_file(path / checkpoint.MANIFEST, loaded), is_json=True)


def state(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    return sealed_part(folder, checkpoint.STATE, is_json=True)


def weights(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    return sealed_part(folder, "weights.safetensors", is_json=False)


def sealed_part(folder: Path, name: str, *, is_json: bool) -> Target:
    """A file of a checkpoint, of which the manifest says the right checksum."""
    path = saved(folder)
    others = json.loads((path / checkpoint.MANIFEST).read_bytes())

    def read(file: Path) -> object:
        data = file.read_bytes()
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_manifest(json.dumps({**others, name: entry}).encode())
        return loaded(path / name)

    write_manifest = from_file(path / checkpoint.MANIFEST, bool)
    valid = [(path / name).read_bytes()]
    return Target(valid=valid, read=from_file(path / name, read), seal=bytes, is_json=is_json)


def saved(folder: Path) -> Path:
    path = folder / checkpoint.step_name(1)
    tensors = {"weights": {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}, "optimizer": {"m": torch.ones(2)}}
    checkpoint.save(path, tensors, {"step": 1, "words": ["yes"], "rng": [1, 2], "config": "seed: 1", "x": {"y": 0.5}})
    return path


def loaded(path: Path) -> object:
    found = checkpoint.load(path.parent)
    assert isinstance(found.state, dict)
    return None


def run_state(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    valid = b'{"status": "stopped", "step": 12, "time": "2026-11-21T18:00:00+0000"}'
    return Target(
        valid=[valid], read=from_file(folder / "state.json", lambda _: RunFolder(folder).status()), is_json=True
    )


def settings(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    texts = (
        b"seed: 1\ntrain: {epochs: 30, learning_rate: 1e-3}\nmodel:\n  name: gru\n  params: {hidden: 8}\n",
        b"data:\n  shards: here\n  balance: &b 0.5\nother: [*b, yes, 'no']\n",
    )
    defaults: dict[str, Any] = {
        "seed": 0, "train.epochs": 1, "train.learning_rate": 0.1, "model.name": "x", "model.params": {},
        "data.shards": "", "data.balance": 1.0, "words": ("a",), "debug": False,
    }  # fmt: skip

    def read(data: bytes) -> object:
        return read_settings(data.decode(errors="replace"), name="x.yaml", defaults=defaults)

    return Target(valid=list(texts), read=read)


def lists(folder: Path, dataset: Path) -> Target:  # noqa: ARG001
    table = b'path,word,start,end,speaker\na.wav,yes,0,1,me\n"b,c.wav",no,,,\n'
    lines = b'{"path": "a.wav", "word": "yes", "start": 0.5, "end": 1}\n{"path": "b.wav", "word": "no"}\n'

    def read(path: Path) -> object:
        answer(lambda _: read_rows(path, "--csv"), b"")
        return read_rows(path, "--jsonl")

    return Target(valid=[table, lines], read=from_file(folder / "list", read))


TARGETS: dict[Callable[[Path, Path], Target], int] = {
    index: 35_000,
    dataset_json: 14_000,
    opened: 2_000,
    unfinished_json: 4_000,
    record: 12_000,
    labels: 6_000,
    wav: 35_000,
    flac: 8_000,
    mp3: 4_000,
    ogg: 2_000,
    tar: 8_000,
    zipped: 6_000,
    manifest: 8_000,
    state: 6_000,
    weights: 10_000,
    run_state: 4_000,
    settings: 2_500,
    lists: 8_000,
}
"""How many inputs each reader is given."""
