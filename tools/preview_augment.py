"""Hear and see what augmentation does: a page with the clips of some draws before and after.

    python tools/preview_augment.py --data.shards data/mine --out page.html
    python tools/preview_augment.py --data.shards data/mine --word yes --draws 20 --augment.speed_percent 15

The draws are those of a training with the same settings, from draw 0 on: with the same seed it hears just this. What is
not a flag of this tool is one of the training; `launch/train.py --help` lists them.
"""

import argparse
import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kws_dist.augment_page import write_page
from kws_dist.augment_preview import find_draws, listen
from kws_dist.config import Config, parse
from kws_dist.errors import UsageError, main_guard
from kws_dist.training.data import Data, open_data
from kws_dist.training.draws import training_sampler
from kws_dist.training.front_end import training_front_end, training_statistics

CPU = torch.device("cpu")
_MOST_DRAWS = 1 << 52


def preview(own: argparse.Namespace, config: Config) -> None:
    """Draw, listen, write the page."""
    _refuse_wrong_use(own)
    if config.data.residency in ("auto", "device") and Path(config.data.shards).is_dir():
        config = replace(config, data=replace(config.data, residency="host"))  # only a few clips are read
    with closing(open_data(config.data, CPU, ("train",))) as data:
        if "train" not in data.stores:
            raise UsageError(f"--data.shards {config.data.shards} has no training split; it has {data.dataset.splits}")
        _write(own, config, data)


def _write(own: argparse.Namespace, config: Config, data: Data) -> None:
    words, store = data.dataset.words, data.stores["train"]
    if own.word and own.word not in words:
        raise UsageError(f"--word {own.word}: the words are {', '.join(words)}")
    sampler = training_sampler(config, store.rows, words, streams=data.streams)
    front_end = training_front_end(config, data, training_statistics(config, data, sampler, CPU))
    label = words.index(own.word) if own.word else None
    draws = find_draws(sampler, store.rows.label, count=own.draws, first=own.first, label=label)
    if not draws:
        raise UsageError(f"--word {own.word}: with these settings it is never drawn")
    which = f", of the word {own.word}" if own.word else ""
    write_page(
        own.out,
        [listen(draw, store, sampler, front_end, words) for draw in draws],
        title=f"What a model hears of {config.data.shards}",
        about=f"Draws of seed {config.seed}{which}: each clip as it is, and as the augmentation makes it."
        " The same colour means the same in both pictures.",
        settings=asdict(config.augment),
        sample_rate_hz=data.dataset.sample_rate_hz,
    )
    print(f"{own.out}: {len(draws)} draws, {own.out.stat().st_size / 1e6:.1f} MB")


def _refuse_wrong_use(own: argparse.Namespace) -> None:
    if own.draws < 1:
        raise UsageError(f"--draws {own.draws}: how many to show, at least 1")
    if not 0 <= own.first < _MOST_DRAWS:
        raise UsageError(f"--first {own.first}: draws are numbered from 0 to {_MOST_DRAWS}")
    if own.out.is_dir():
        raise UsageError(f"--out {own.out}: this is a folder; name the page in it")
    if not own.out.parent.is_dir():
        raise UsageError(f"--out {own.out}: there is no folder {own.out.parent}")


def main() -> int:
    """Parse, preview."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--draws", type=int, default=12, help="how many to show (12)")
    parser.add_argument("--first", type=int, default=0, help="draw number to begin at (0)")
    parser.add_argument("--word", help="only draws of this word")
    parser.add_argument("--out", type=Path, default=Path("augment.html"), help="the page (augment.html)")
    own, rest = parser.parse_known_args()
    return main_guard(lambda: preview(own, parse(rest)), debug="--debug" in rest)


if __name__ == "__main__":
    sys.exit(main())
