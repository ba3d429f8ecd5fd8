"""Checkpoints that are either whole or not there: safetensors and JSON, checked by size and SHA-256.

A checkpoint is a folder. It is written under the name `....tmp`, every file is flushed to the disk, the manifest
comes last, and only then does the folder get its name. Older ones go only after that, and never below two whole ones.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from kws_dist.errors import DataError
from kws_dist.files import sync_folder

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
WEIGHTS = ("weights", "average")
"""The parts of a checkpoint that say what a model has learnt; the rest is for training to go on."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\.(safetensors|json)")
_MAX_MANIFEST_BYTES = 1 << 20
_OLD = ".old"
_TMP = ".tmp"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, as read back."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by file stem: `weights`, `optimizer`, ..."""
    state: dict[str, Any]
    """Everything else: step, seed, configuration, ..."""


def step_name(step: int) -> str:
    """Return the folder name of a step's checkpoint; sorted by name is sorted by step."""
    return f"step-{step:08d}"


def save(path: Path, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write a checkpoint to the folder `path`, replacing what is there only once the new one is whole."""
    write(path, pack(tensors, state))


def pack(tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of a checkpoint's files by name, in the order in which they are written."""
    contents = {
        f"{name}.safetensors": safetensors.torch.save({key: tensor.contiguous() for key, tensor in part.items()})
        for name, part in tensors.items()
    }
    contents[STATE] = json.dumps({"format_version": FORMAT_VERSION, **state}, indent=1).encode()
    manifest = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in contents.items()}
    contents[MANIFEST] = json.dumps(manifest, indent=1).encode()  # a dict keeps its order: the manifest is last
    return contents


def write(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write what `pack` returned to the folder `path`; until all of it is on the disk, what was there stays."""
    draft = path.with_name(path.name + _TMP)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, data in contents.items():
        _write_through(draft / name, data)
    sync_folder(draft)
    _swap_in(draft, path)


def load(path: Path, parts: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint and check every byte that is read; `DataError` says which file is wrong.

    `parts`: the tensors that are wanted, by file stem; all by default.
    """
    manifest = _manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Any] = {}
    for name, expected in manifest.items():
        if parts is not None and name != STATE and name.removesuffix(".safetensors") not in parts:
            continue
        data = _checked(path / name, expected)
        try:
            if name.endswith(".safetensors"):
                tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
            elif name == STATE:
                state = json.loads(data)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:  # whole, but not of our making
            raise DataError(f"{path / name} is not of a checkpoint: {error}") from None
    if not isinstance(state, dict):
        raise DataError(f"{path / STATE} is not of a checkpoint")
    if state.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path / STATE}: format version {state.get('format_version')} is not {FORMAT_VERSION}")
    return Checkpoint(path, tensors, state)


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of the weights that a checkpoint is evaluated with, as its manifest says it."""
    manifest = _manifest(path)
    stem = next((stem for stem in reversed(WEIGHTS) if f"{stem}.safetensors" in manifest), WEIGHTS[0])
    return manifest.get(f"{stem}.safetensors", {}).get("sha256", "")


def newest(folder: Path, on_skip: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest step checkpoint that is whole; `on_skip` is told of each newer one that is not, and why."""
    for path in reversed(step_folders(folder)):
        try:
            return load(path)
        except DataError as error:
            on_skip(f"checkpoint {path.name} is skipped: {error}")
    return None


def problem(path: Path) -> str:
    """Return what is wrong with a checkpoint, naming the file; "" if it is whole."""
    try:
        for name, expected in _manifest(path).items():
            _checked(path / name, expected)
    except DataError as error:
        return str(error)
    return ""


def best_path(folder: Path) -> Path:
    """Return where the best checkpoint is; if a crash fell between the two renames of a swap, its predecessor."""
    best = folder / "best"
    old = best.with_name("best" + _OLD)
    return old if old.exists() and not best.exists() else best


def tidy(folder: Path) -> None:
    """Clear away what a crashed save left behind: its draft, and what had stepped aside for it."""
    discard_drafts(folder)
    for old in folder.glob(f"*{_OLD}"):
        path = old.with_name(old.name.removesuffix(_OLD))
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def discard_drafts(folder: Path) -> None:
    """Remove what was begun and did not become whole."""
    for draft in folder.glob(f"*{_TMP}"):
        shutil.rmtree(draft)


def prune(folder: Path, keep: int = 2) -> list[Path]:
    """Remove the oldest step checkpoints, as long as `keep` newer ones are whole; returns what was removed."""
    whole, removed = 0, []
    for path in reversed(step_folders(folder)):
        if whole >= keep:
            shutil.rmtree(path)
            removed.append(path)
        elif not problem(path):
            whole += 1
    return removed


def step_folders(folder: Path) -> list[Path]:
    """Return the step checkpoints under `folder`, oldest first, whole or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and path.name[5:].isdigit())


def _swap_in(draft: Path, path: Path) -> None:
    """Give the draft its name; a folder cannot replace a full one in one rename, so that one steps aside first."""
    old = path.with_name(path.name + _OLD)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    draft.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads(_read(path / MANIFEST, _MAX_MANIFEST_BYTES))
        valid = all(
            _FILE_NAME.fullmatch(name) and type(entry["bytes"]) is int and isinstance(entry["sha256"], str)
            for name, entry in manifest.items()
        )
    except OSError as error:
        raise DataError(f"{path / MANIFEST} cannot be read ({error.strerror})") from None
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        valid = False
        manifest = {}
    if not valid or STATE not in manifest:
        raise DataError(f"{path / MANIFEST} is damaged")
    return manifest


def _checked(path: Path, expected: Mapping[str, Any]) -> bytes:
    try:
        data = _read(path, expected["bytes"])
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) != expected["bytes"]:
        raise DataError(f"{path} has {len(data)} bytes, not {expected['bytes']}")
    if _sha256(data) != expected["sha256"]:
        raise DataError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return data


def _read(path: Path, most_bytes: int) -> bytes:
    """Read a file of the folder itself.

    A link could lead out of the folder, a pipe would be waited for, and a device never ends: those are an `OSError`.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        if about.st_size > most_bytes:
            raise DataError(f"{path} has {about.st_size} bytes, more than {most_bytes}")
        return file.read(about.st_size)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
