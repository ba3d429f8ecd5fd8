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

import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from kws_dist import models
from kws_dist.config import Config, differences, parse
from kws_dist.errors import UsageError
from kws_dist.settings_file import read_settings, read_yaml
from kws_dist.shards.meta import META_NAME, load_meta
from kws_dist.sweep_plan import DEFAULTS, Settings, pairs, plan

_PARTS = ("out", "settings", "grid", "cells")


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
    digest: str = ""
    """Of the data that it asks for; empty if that is at a URL."""


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, in the order in which they are run."""

    out: Path
    cells: tuple[Cell, ...]
    text: str
    """Of the file."""


def read_sweep(file: Path, out: Path | None = None) -> Sweep:
    """Read and check a sweep; `out` is used in place of the file's own.

    Raises `UsageError`, or exits with code 2 where a setting of a run is wrong, before anything is run.
    """
    text = _text_of(file)
    content = read_yaml(text, name=str(file))
    if not isinstance(content, dict):
        raise UsageError(f"{file} should hold the parts {', '.join(_PARTS)}, not a {type(content).__name__}")
    for part in content:
        if part not in _PARTS:
            meant = get_close_matches(part, _PARTS, n=1)
            hint = f"; perhaps you meant {meant[0]!r}" if meant else ""
            raise UsageError(f"{file}: there is no part {part!r} in a sweep{hint}; the parts are {', '.join(_PARTS)}")
    folder = out or (Path(content["out"]) if content.get("out") else Path("runs/sweeps") / file.stem)
    try:
        planned = list(plan(content))
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    cells = tuple(_cell(file, folder, *one) for one in planned)
    _refuse_same_names(file, cells)
    _refuse_mixed_rows(file, cells)
    digests = _check_data(file, cells)
    _check_models(file, cells)
    return Sweep(folder, tuple(replace(cell, digest=digests[cell.config.data.shards]) for cell in cells), text)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file; configs/sweeps has examples") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None


def _cell(file: Path, out: Path, name: str, row: str, settings: Settings) -> Cell:
    """Make the command line of a run and parse it as launch/train.py will."""
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(DEFAULTS.get(key), dict):
            value = pairs(key, value)
        elif isinstance(DEFAULTS.get(key), tuple | list) and isinstance(value, str):
            value = value.split()
        *path, last = key.split(".")
        place = sections
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    text = yaml.safe_dump(sections, sort_keys=False)
    words = (*read_settings(text, name=f"{file}, {name}", defaults=DEFAULTS), "--run_dir", str(out / name))
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


def _refuse_mixed_rows(file: Path, cells: tuple[Cell, ...]) -> None:
    """Refuse what makes a mean wrong: runs in a row that differ in more than the seed, a run that is there twice."""
    first_of_row, known = dict[str, Cell](), dict[str, Cell]()
    for cell in cells:
        first = first_of_row.setdefault(cell.row, cell)
        if names := _differences(cell, first) - {"seed"}:
            raise UsageError(
                f"{file}: {first.name} and {cell.name} would be one row of the table, and differ in"
                f" {', '.join(sorted(names))}: give them other names"
            )
        same = known.setdefault(repr(replace(cell.config, run_dir="", config="")), cell)
        if same is not cell:
            raise UsageError(f"{file}: {same.name} and {cell.name} have the same settings: take one of them out")


def _differences(a: Cell, b: Cell) -> set[str]:
    return differences(a.config, b.config).keys() - {"run_dir", "config"}


def _check_data(file: Path, cells: tuple[Cell, ...]) -> dict[str, str]:
    """Return the digest of each folder of shards; refuse what is none, which would end each of its runs."""
    digests: dict[str, str] = {}
    for cell in cells:
        shards, where = cell.config.data.shards, f"{file}, {cell.name}"
        if not shards:
            raise UsageError(f"{where}: data.shards is missing: name a folder that tools/make_shards.py made")
        if "://" in shards or shards in digests:
            digests.setdefault(shards, "")
            continue
        if not Path(shards).is_dir():
            raise UsageError(f"{where}: data.shards {shards}: there is no such folder")
        if not (Path(shards) / META_NAME).is_file():
            raise UsageError(f"{where}: data.shards {shards} is not finished: run its tools/make_shards.py again")
        digests[shards] = load_meta(Path(shards) / META_NAME).digest
    return digests


def _check_models(file: Path, cells: tuple[Cell, ...]) -> None:
    """Refuse parameters that a model does not have, which would end each of its runs."""
    built: list[object] = []
    for cell in cells:
        model = cell.config.model
        if model not in built:
            try:
                models.build(model.name, num_classes=2, **model.params)
            except UsageError as error:
                raise UsageError(f"{file}, {cell.name}: {error}") from None
            built.append(model)
