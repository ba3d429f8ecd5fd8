"""Open splits of the tiny dataset, and damage them, for tests of stores."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.store import ClipPolicy, Residency, Store, open_store
from kws_dist.shards.read import Rows, open_dataset

CPU = torch.device("cpu")
LONGEST = 910
"""Samples of the longest clip of the tiny dataset; the shortest has 800."""


def open_split(root: Path, residency: Residency, split: str = "train", *, sizes: bool = True, **policy: Any) -> Store:
    """Open a split; `policy` as in the settings, clips as long as the longest unless `clip_samples` says so."""
    rows = open_dataset(root, check_sizes=sizes).rows(split)
    return open_store(rows, ClipPolicy(**{"clip_samples": LONGEST, **policy}), residency=residency, device=CPU)


def everything(store: Store) -> Tensor:
    """Return all rows of a store."""
    return store.gather(np.arange(len(store.rows)))


def flip_a_sample(rows: Rows, clip: int) -> None:
    """Flip one bit in the middle of a clip's audio, on disk."""
    path, place = rows.shard_paths[rows.shard[clip]], int(rows.audio_offset[clip] + rows.audio_bytes[clip] // 2)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
