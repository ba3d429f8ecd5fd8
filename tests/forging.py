"""Data sets that somebody made to do harm: changed as they like, with every checksum made right again."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from kws_dist.shards.index import load_index, pack_index
from kws_dist.shards.meta import contents


def sealed(fields: dict[str, Any]) -> bytes:
    """Return a `dataset.json` with the checksum that belongs to it."""
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    checksum = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return (json.dumps(rest | {"checksum": checksum}, indent=1, ensure_ascii=False) + "\n").encode(
        errors="surrogatepass"
    )


def forge_clip(shard: Path, number: int, change: Callable[[bytes], bytes], **columns: int) -> str:
    """Change the record of a clip, of the same length, and its row in the index; returns its key."""
    index, _ = load_index(shard.with_suffix(".idx"))
    index = replace(index, rows=index.rows.copy())
    row, content = index.rows[number], shard.read_bytes()
    first, last = int(row["record_offset"]), int(row["record_offset"]) + int(row["record_bytes"])
    record = change(content[first:last])
    assert len(record) == last - first
    shard.write_bytes(content[:first] + record + content[last:])
    for name, value in {**columns, "record_checksum": xxhash.xxh3_64_intdigest(record)}.items():
        index.rows[name][number] = value
    shard.with_suffix(".idx").write_bytes(pack_index(index))
    _describe_again(shard.parent)
    return index.keys[number]


def _describe_again(root: Path) -> None:
    meta = json.loads((root / "dataset.json").read_bytes())
    indexes = []
    for entry in meta["shards"]:
        index, data = load_index((root / entry["name"]).with_suffix(".idx"))
        indexes.append((entry["split"], index))
        sha256 = hashlib.sha256((root / entry["name"]).read_bytes()).hexdigest()
        entry |= {"sha256": sha256, "index_sha256": hashlib.sha256(data).hexdigest()}
    (root / "dataset.json").write_bytes(sealed({**meta, **contents(indexes, meta["words"])}))


_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "socket.connect")
_heard: list[tuple[str, object]] | None = None


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _heard is not None and (event == "open" or event.startswith(("os.", "shutil.")) or event in _RUNS):
        link = event == "open" and isinstance(args[2], int) and args[2] & os.O_NOFOLLOW  # is not followed
        _heard.append((event, Path(args[0]).parent if link else args[0] if args else None))


sys.addaudithook(_hear)  # once for each process: Python has no way of taking one off again


@contextmanager
def nothing_touched(outside: Path, but: Sequence[str] = ()) -> Iterator[None]:
    """See to it that nothing below the folder `outside` is opened or changed meanwhile, and that nothing is run."""
    global _heard
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    _heard = heard = []
    try:
        yield
    finally:
        _heard = None
    for event, about in heard:
        assert event not in _RUNS or event in but, f"{event} {about!r}"
        if isinstance(about, str | bytes | os.PathLike):
            real = Path(os.path.realpath(os.fsdecode(about)))
            assert not real.is_relative_to(outside.resolve()), f"{event} {about!r}"
    assert before == {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
