"""Many runs from one file: the same settings with several seeds, or a grid of them. `tools/sweep.py` runs them.

    out: runs/sweeps/rates
    settings: {data.shards: data/real10, train.epochs: 30}
    grid:
      config: [configs/bcresnet1.yaml, configs/quickstart.yaml]
      train.learning_rate: [0.05, 0.1]
      seed: [0, 1, 2]

`settings` hold for all runs, `grid` makes every combination of its values. Where a combination is more than one
setting, `cells` lists them, each crossed with the whole grid:

    cells:
      - {name: published}
      - {name: without_average, train.ema_decay: 0, train.nesterov: no}

A setting is called as on the command line, or lies in its section as in a file of settings. Pairs and lists are
written as such or as words: `model.params: {tau: 3, dropout: 0}` or `model.params: tau 3 dropout 0`.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from kws_dist import models
from kws_dist.config import Config, parse
from kws_dist.errors import UsageError
from kws_dist.settings_file import read_settings, read_yaml

_PARTS = ("out", "settings", "grid", "cells")
_OWN = {"run_dir": "each run has its folder in `out`", "resume": "a sweep goes on by itself"}
_OWN |= {"dry_run": "give it to tools/sweep.py", "debug": "it is in the log of the run"}

Settings = dict[str, Any]
"""`{"train.epochs": "30", "model.params": {"tau": "3"}}`: words, and pairs and lists of words."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Of its folder: what it differs in, the seed last."""
    row: str
    """Of its row in the table: the same without the seed."""
    words: tuple[str, ...]
    """The command line of launch/train.py."""
    config: Config
    """What that command line means."""


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, in the order in which they are run."""

    out: Path
    cells: tuple[Cell, ...]


def read_sweep(file: Path, out: Path | None = None) -> Sweep:
    """Read and check a sweep; `out` is used in place of the file's own.

    Raises `UsageError`, or exits with code 2 where a setting of a run is wrong, before anything is run.
    """
    content = _load(file)
    for part in content:
        if part not in _PARTS:
            meant = get_close_matches(part, _PARTS, n=1)
            hint = f"; perhaps you meant {meant[0]!r}" if meant else ""
            raise UsageError(f"{file}: there is no part {part!r} in a sweep{hint}; the parts are {', '.join(_PARTS)}")
    folder = out or (Path(content["out"]) if content.get("out") else Path("runs/sweeps") / file.stem)
    try:
        planned = list(_plan(content))
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    cells = tuple(_cell(file, folder, *one) for one in planned)
    _refuse_same_names(file, cells)
    _check_models(file, cells)
    return Sweep(folder, cells)


def _load(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file; configs/sweeps has examples") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    content = read_yaml(text, name=str(file))
    if not isinstance(content, dict):
        raise UsageError(f"{file} should hold the parts {', '.join(_PARTS)}, not a {type(content).__name__}")
    return content


def _plan(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Settings]]:
    """Yield the name of the run, that of its row, and its settings."""
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
        start = [str(one["name"])] if "name" in one else [_label(key, value) for key, value in given.items()]
        for values in product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            settings = common | given | chosen
            parts = start + [_label(key, value) for key, value in chosen.items() if key != "seed"]
            row = "-".join(parts) or _label("config", settings.get("config", "")) or "run"
            seed = f"-seed{settings['seed']}" if "seed" in settings else ""
            yield _safe(row + seed), _safe(row), settings


def _section(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    section = content.get(part) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{part} should hold settings such as `train.epochs: ...`, not {section!r}")
    return section


def _flat(settings: Mapping[str, Any], section: str = "") -> Settings:
    """Join the names of sections with those in them; what the sweep itself decides is refused."""
    flat: Settings = {}
    for name, value in settings.items():
        path, of_setting = section + name, isinstance(_DEFAULTS.get(section + name), dict)
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


_DEFAULTS = dict(_defaults(Config()))


def _label(key: str, value: Any) -> str:
    """Return what a setting adds to a name."""
    if key == "config":
        return Path(str(value)).stem
    if isinstance(_DEFAULTS.get(key), dict):  # pairs say what they are
        return "_".join(f"{name}={one}" for name, one in _pairs(key, value).items())
    text = "_".join(value) if isinstance(value, list) else str(value)
    return f"{key.rpartition('.')[2]}={text}"


def _safe(name: str) -> str:
    """Return the name without what has a meaning in paths and shells."""
    return re.sub(r"[^\w.=+-]+", "_", name).lstrip(".-")


def _pairs(key: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return value
    words = value if isinstance(value, list) else str(value).split()
    if len(words) % 2:
        raise ValueError(f"{key} should be pairs such as `tau 3 dropout 0`, not {value!r}")
    return dict(zip(words[::2], words[1::2], strict=True))


def _cell(file: Path, out: Path, name: str, row: str, settings: Settings) -> Cell:
    """Make the command line of a run and parse it as launch/train.py will."""
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(_DEFAULTS.get(key), dict):
            value = _pairs(key, value)
        elif isinstance(_DEFAULTS.get(key), tuple | list) and isinstance(value, str):
            value = value.split()
        *path, last = key.split(".")
        place = sections
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    text = yaml.safe_dump(sections, sort_keys=False)
    words = (*read_settings(text, name=f"{file}, {name}", defaults=_DEFAULTS), "--run_dir", str(out / name))
    try:
        config = parse(words)
    except SystemExit:
        print(f"{file}: that was the run {name}", file=sys.stderr)
        raise
    return Cell(name, row, words, config)


def _refuse_same_names(file: Path, cells: tuple[Cell, ...]) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise UsageError(f"{file}: two runs would be called {cell.name!r}: list them as cells, each with a name")
        seen.add(cell.name)


def _check_models(file: Path, cells: tuple[Cell, ...]) -> None:
    """Refuse what would end every run of a model at its start: parameters that it does not have, no shards."""
    built: list[object] = []
    for cell in cells:
        model, shards = cell.config.model, cell.config.data.shards
        where = f"{file}, {cell.name}"
        if not shards:
            raise UsageError(f"{where}: data.shards is missing: name a folder that tools/make_shards.py made")
        if "://" not in shards and not Path(shards).is_dir():
            raise UsageError(f"{where}: data.shards {shards}: there is no such folder")
        if model not in built:
            try:
                models.build(model.name, num_classes=2, **model.params)
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from None
            built.append(model)
