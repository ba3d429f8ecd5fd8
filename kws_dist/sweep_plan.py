"""What the runs of a sweep are called and set to: `settings`, `grid` and `cells` of its file, multiplied out."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

from kws_dist.config import Config

_UNSAFE = re.compile(r"[^\w.=+-]+")
_MOST_BYTES = 200  # of a name: file systems take 255, and the seed, .log and .tmp are added
_OWN = {"run_dir": "each run has its folder in `out`", "resume": "a sweep goes on by itself"}
_OWN |= {"dry_run": "give it to tools/sweep.py", "debug": "it is in the log of the run"}

Settings = dict[str, Any]
"""`{"train.epochs": "30", "model.params": {"tau": "3"}}`: words, and pairs and lists of words."""


def plan(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Settings]]:
    """Yield the name of each run, that of its row, and its settings; `ValueError` says what cannot be meant."""
    common = _flat(_section(content, "settings"))
    grid = _flat(_section(content, "grid"))
    listed = content.get("cells") or [{}]
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError("cells should be a list of settings such as - {name: wide, model.params: tau 3}")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid: {key} should be a list of values such as [1, 2], not {values!r}")
    for one in listed:
        given = _flat({key: value for key, value in one.items() if key != "name"})
        if both := sorted(given.keys() & grid.keys()):
            raise ValueError(f"{both[0]} is in the grid and in one of the cells: take it out of one of them")
        if one.get("name") and not _safe(str(one["name"])):
            raise ValueError(f"a run cannot be called {one['name']!r}: give it a name with a letter or a digit")
        start = [str(one["name"])] if "name" in one else [_label(key, value) for key, value in given.items()]
        for values in product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            settings = common | given | chosen
            parts = start + [_label(key, value) for key, value in chosen.items() if key != "seed"]
            row = "-".join(parts) or _label("config", settings.get("config", "")) or "run"
            seed = f"-seed{settings['seed']}" if "seed" in settings else ""
            yield _safe(row) + _UNSAFE.sub("_", seed), _safe(row), settings


def _section(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    section = content.get(part) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{part} should hold settings such as `train.epochs: ...`, not {section!r}")
    return section


def _flat(settings: Mapping[str, Any], section: str = "") -> Settings:
    """Join the names of sections with those in them; what the sweep itself decides is refused."""
    flat: Settings = {}
    for name, value in settings.items():
        path, of_setting = section + name, isinstance(DEFAULTS.get(section + name), dict)
        if path in _OWN:
            raise ValueError(f"{path} is not a setting of a sweep: {_OWN[path]}")
        more = _flat(value, f"{path}.") if isinstance(value, dict) and not of_setting else {path: value}
        if both := flat.keys() & more.keys():
            raise ValueError(f"{both.pop()} is there twice")
        flat |= more
    return flat


def _defaults(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(config).items():
        yield from _defaults(value, f"{prefix}{name}.") if is_dataclass(value) else [(prefix + name, value)]


DEFAULTS = dict(_defaults(Config()))
"""`{"train.epochs": 30}` of every setting."""


def _label(key: str, value: Any) -> str:
    """Return what a setting adds to a name."""
    if key == "config":
        return Path(str(value)).stem
    if isinstance(DEFAULTS.get(key), dict):  # pairs say what they are
        return "_".join(f"{name}={one}" for name, one in pairs(key, value).items())
    text = "_".join(value) if isinstance(value, list) else str(value)
    return f"{key.rpartition('.')[2]}={text}"


def _safe(name: str) -> str:
    """Return the name without what has a meaning in paths and shells; a long one ends in a hash of all of it."""
    safe = _UNSAFE.sub("_", name).lstrip(".-")
    if len(safe.encode()) <= _MOST_BYTES:
        return safe
    end = "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return safe.encode()[: _MOST_BYTES - len(end)].decode(errors="ignore") + end


def pairs(key: str, value: Any) -> dict[str, str]:
    """Return the pairs that a setting holds, however they are written."""
    if isinstance(value, dict):
        return value
    words = value if isinstance(value, list) else str(value).split()
    if len(words) % 2:
        raise ValueError(f"{key} should be pairs such as `tau 3 dropout 0`, not {value!r}")
    return dict(zip(words[::2], words[1::2], strict=True))
