"""Small recordings laid out like Speech Commands, made of tones, for tests that need a corpus but no speech."""

import gzip
import io
import tarfile
import tempfile
import wave
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kws_dist.corpus.clip import Samples, Source
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import write_dataset

Member = tuple[tarfile.TarInfo, bytes]


def tone(number: int, n_samples: int = 800) -> Samples:
    """Return a tone `(n_samples,)` that no other number shares."""
    return (8000 * np.sin(np.arange(n_samples) * (0.05 + 0.001 * number))).astype(np.int16)


def wav_file(samples: Samples, *, rate_hz: int = 16_000, channels: int = 1, sample_bytes: int = 2) -> bytes:
    """Return a WAV file with the bytes of `samples` in the form that its header claims."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(sample_bytes)
        writer.setframerate(rate_hz)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def files(
    words: Sequence[str] = ("yes", "no", "up"), speakers: int = 12, noises: int = 2, *, lists: bool = True
) -> dict[str, bytes]:
    """Return a tiny corpus: one clip of each word by each speaker, two speakers for validation, three for test."""
    number, made = 0, dict[str, bytes]()
    of_split: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in words:
        for speaker in range(speakers):
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            made[name] = wav_file(tone(number, n_samples=800 + 10 * speaker))
            number += 1
            if speaker < 5:
                of_split["validation_list.txt" if speaker < 2 else "testing_list.txt"].append(name)
    for noise in range(noises):
        made[f"_background_noise_/hum {noise}.wav"] = wav_file(tone(500 + noise, n_samples=4000))
    if lists:
        made |= {name: "\n".join(lines).encode() + b"\n" for name, lines in of_split.items()}
    return made


def pack(path: Path, content: Mapping[str, bytes], extra: Sequence[Member] = ()) -> Path:
    """Write a `.tar.gz` with the files, as the official one is written (`./` before each name), then `extra`."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=1) as plain,
        tarfile.open(fileobj=plain, mode="w") as tar,
    ):
        for name, data in content.items():
            add(tar, tarfile.TarInfo(f"./{name}"), data)
        for info, data in extra:
            add(tar, info, data)
    return path


def unpack(folder: Path, content: Mapping[str, bytes]) -> Path:
    """Write the files into a folder."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def add(tar: tarfile.TarFile, info: tarfile.TarInfo, data: bytes) -> None:
    """Add a member, with the size of its data unless the header claims another."""
    if data:
        info.size = len(data)
    tar.addfile(info, io.BytesIO(data) if data else None)


def read_all(source: Source, keys: Collection[str] | None = None) -> dict[str, Samples]:
    """Return the audio of the wanted clips of a source, of all by default."""
    wanted = [clip.key for clip in source.clips] if keys is None else list(keys)
    with tempfile.TemporaryDirectory() as folder, source.staged(wanted, Path(folder)):
        return {key: source.read(key) for key in wanted}


def shards_of(
    archive: Path, out: Path, *, shard_clips: int = 8, seed: int = 0, words: Sequence[str] | None = None, **options: Any
) -> Path:
    """Make a dataset of an archive, or of a folder; 7 shards of the tiny one."""
    source = SpeechCommands(root=archive, words=words) if archive.is_dir() else SpeechCommands(archive, words=words)
    plan = make_plan(source, shard_clips=shard_clips, seed=seed)
    write_dataset(source, plan, out, task="tiny", command=["make", "it"], **options)
    return out


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
