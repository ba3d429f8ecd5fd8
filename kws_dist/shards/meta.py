"""`dataset.json`: what a finished dataset is, in one file that people and programs read."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kws_dist.corpus.clip import NOISE_SPLIT, NOISE_WORD, SAMPLE_RATE_HZ, SPLITS, Rejected
from kws_dist.corpus.naming import fault_of_word
from kws_dist.errors import DataError
from kws_dist.shards.codec import Codec, codec_named
from kws_dist.shards.index import REMEDY, SHARD_NAME, ShardIndex

FORMAT_VERSION = 2
META_NAME = "dataset.json"
REJECTED_NAME = "rejected.jsonl"
_CHECKSUM = "checksum"
_MAX_META_BYTES = 64 << 20
_MAX_LEVELS = 32  # of lists and objects in each other; what is written has 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard as `dataset.json` lists it."""

    name: str
    split: str
    clips: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetMeta:
    """The fields of `dataset.json`; `clips`, `clips_per_word` and `rejected` count, `audio_s` is in seconds."""

    format_version: int
    task: str
    words: list[str]
    sample_rate_hz: int
    codec: Codec
    clips: dict[str, int]
    clips_per_word: dict[str, dict[str, int]]
    audio_s: dict[str, float]
    shards: list[ShardEntry]
    rejected: int
    rejected_sha256: str
    source: dict[str, Any]
    command: list[str]
    seed: int
    plan: str
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self)

    def to_json(self) -> bytes:
        """Return the content of the file, which ends with a checksum of all the rest."""
        fields = self.to_dict()
        return (json.dumps(fields | {_CHECKSUM: _hash(fields)}, indent=1, ensure_ascii=False) + "\n").encode(
            errors="backslashreplace"
        )


def contents(shards: Iterable[tuple[str, ShardIndex]], words: Sequence[str]) -> dict[str, Any]:
    """Return what follows from the indexes alone: `clips`, `clips_per_word`, `audio_s` and `digest`.

    `digest` is the SHA-256 of the sorted rows (split, key, word, checksum of the samples): the identity of the
    data, whatever the sharding. `shards` gives the split and the index of each.
    """
    names = [*words, NOISE_WORD]  # label -1 is the noise
    clips: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    per_word = {split: dict.fromkeys(words, 0) for split in SPLITS}
    rows: list[tuple[str, str, str, int]] = []
    for split, index in shards:
        clips[split] += len(index.rows)
        samples[split] += int(index.rows["n_samples"].sum(dtype="int64"))
        labels, checksums = index.rows["label"].tolist(), index.rows["checksum"].tolist()
        for key, label, checksum in zip(index.keys, labels, checksums, strict=True):
            rows.append((split, key, names[label], checksum))
            if split != NOISE_SPLIT:
                per_word[split][names[label]] += 1
    return {
        "clips": {split: clips[split] for split in (*SPLITS, NOISE_SPLIT)},
        "clips_per_word": per_word,
        "audio_s": {split: round(samples[split] / SAMPLE_RATE_HZ, 3) for split in (*SPLITS, NOISE_SPLIT)},
        "digest": _digest(rows),
    }


def _digest(rows: list[tuple[str, str, str, int]]) -> str:
    hashed = hashlib.sha256()
    for split, key, word, checksum in sorted(rows):
        hashed.update(f"{split}\t{key}\t{word}\t{checksum:016x}\n".encode())
    return hashed.hexdigest()


def pack_rejected(rows: Iterable[Rejected]) -> bytes:
    """Return the content of `rejected.jsonl`: a line of JSON for every recording left out, sorted, each once."""
    lines = {json.dumps(asdict(row), ensure_ascii=False) for row in rows}
    return "".join(f"{line}\n" for line in sorted(lines)).encode(errors="backslashreplace")


def load_meta(path: Path) -> DatasetMeta:
    """Read `dataset.json`; raises `DataError` naming the file and what is wrong with it."""
    try:
        if path.stat().st_size > _MAX_META_BYTES:
            raise ValueError("it is larger than any dataset.json")
        return _parse(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged or not of this program ({error}); {REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(raw: object) -> DatasetMeta:
    if not isinstance(raw, dict):
        raise ValueError("it holds no JSON object")
    known = {"format_version": FORMAT_VERSION, "sample_rate_hz": SAMPLE_RATE_HZ}
    for name, value in known.items():
        if raw.get(name) != value or isinstance(raw[name], bool):
            raise ValueError(f"{name} is {raw.get(name)!r}, and this program reads {value!r}")
    if _levels(raw) > _MAX_LEVELS:
        raise ValueError("its lists are nested without end")
    if raw.pop(_CHECKSUM, None) != _hash(raw):
        raise ValueError("it was changed after it was written")
    entries = _field(raw, "shards", list)
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("'shards' is not a list of objects")
    meta = DatasetMeta(
        format_version=FORMAT_VERSION,
        task=_field(raw, "task", str),
        words=_texts(raw, "words"),
        sample_rate_hz=SAMPLE_RATE_HZ,
        codec=codec_named(_field(raw, "codec", str)),
        clips=_field(raw, "clips", dict),
        clips_per_word=_field(raw, "clips_per_word", dict),
        audio_s=_field(raw, "audio_s", dict),
        shards=[_parse_entry(entry) for entry in entries],
        rejected=_field(raw, "rejected", int),
        rejected_sha256=_field(raw, "rejected_sha256", str),
        source=_field(raw, "source", dict),
        command=_texts(raw, "command"),
        seed=_field(raw, "seed", int),
        plan=_field(raw, "plan", str),
        digest=_field(raw, "digest", str),
    )
    if not meta.words or any(map(fault_of_word, meta.words)) or len(set(meta.words)) < len(meta.words):
        raise ValueError("'words' is not a list of different words")
    if len({entry.name for entry in meta.shards}) < len(meta.shards):
        raise ValueError("'shards' lists a shard twice")
    return meta


def _parse_entry(raw: Mapping[str, Any]) -> ShardEntry:
    entry = ShardEntry(
        name=_field(raw, "name", str),
        split=_field(raw, "split", str),
        clips=_field(raw, "clips", int),
        bytes=_field(raw, "bytes", int),
        sha256=_field(raw, "sha256", str),
        index_sha256=_field(raw, "index_sha256", str),
    )
    if not SHARD_NAME.fullmatch(entry.name) or not entry.name.startswith(f"{entry.split}-"):
        raise ValueError(f"{entry.name!r} is no name of a shard of split {entry.split!r}")
    return entry


def _levels(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_levels, inner), default=0)


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _field(raw: Mapping[str, Any], name: str, kind: type) -> Any:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name!r} is missing or not a {kind.__name__}")
    return value


def _texts(raw: Mapping[str, Any], name: str) -> list[str]:
    texts = _field(raw, name, list)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name!r} is not a list of texts")
    return texts
