"""Files of sweeps, for tests."""

from pathlib import Path
from typing import Any

import yaml
from launching import SMALL

from kws_dist.sweep import Sweep, read_sweep


def written(folder: Path, shards: Path, text: str, *, small: bool = False) -> Path:
    """A sweep with these parts besides the settings that all need."""
    settings: dict[str, Any] = {"data.shards": str(shards)}
    if small:
        flags = [index for index, word in enumerate(SMALL) if word.startswith("--")]
        ends = [*flags[1:], len(SMALL)]
        settings |= {
            SMALL[at].removeprefix("--"): " ".join(SMALL[at + 1 : end]) for at, end in zip(flags, ends, strict=True)
        }
    file = folder / "some.yaml"
    file.write_text(f"out: {folder / 'out'}\n" + yaml.safe_dump({"settings": settings}) + text)
    return file


def planned(folder: Path, shards: Path, text: str) -> Sweep:
    return read_sweep(written(folder, shards, text))
