"""Teach a trained run new words from a few recordings of each (5 to 20 are enough to begin with).

    python tools/add_word.py --run_dir runs/mine --root my_word --out runs/mine-plus

my_word is a folder, a .zip or a .tar.gz with one folder for each new word, like my_word/lights/anything.wav; WAV, FLAC,
OGG, Opus and MP3 of any rate are read. The last block and the classifier are fine-tuned on the new recordings and on
clips of the old words, and the end is a report of what the old words have lost. OUT is a run like any other. The same
command goes on where it was stopped. What is not listed here is passed on to the training: --train.epochs 20, --seed 1.
Exit code 1: stopped before the end.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from kws_dist.errors import main_guard

if TYPE_CHECKING:
    from kws_dist.training.add_word import Addition

_RECIPE = Path(__file__).parents[1] / "configs" / "add_word.yaml"


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """Clips of the old words."""

    shards: str = ""
    """Folder of shards with the old words. Default: the one that the run was trained on."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which run, which recordings, where to."""

    run_dir: Path
    """Folder of the trained run; it is not changed."""
    root: Path
    """Folder or archive with one folder of recordings for each new word."""
    out: Path
    """Folder of the new run; its shards go to OUT/data."""
    data: DataArguments = field(default_factory=DataArguments)
    rehearsal_clips: int = 100
    """Training clips of each old word that are heard again, drawn by the seed; 0 is all."""
    split: str | None = None
    """Shares of train/val/test of the new recordings, such as 50/0/50. Default: 80/0/20 for words with 8 or more."""
    speaker_from: str | None = None
    """Regular expression that finds the speaker in a file name; no speaker is then in training and test."""
    config: Path = _RECIPE
    """YAML file whose section `train` says how to fine-tune."""
    debug: bool = False
    """Show the traceback of an error."""


def add_word(arguments: Arguments, more_flags: Sequence[str]) -> int:
    """Make shards, train, report; returns the exit code."""
    from kws_dist import shards_display
    from kws_dist.process import keep_freed_memory, use_cores
    from kws_dist.run import RunFolder
    from kws_dist.shards.read import open_dataset
    from kws_dist.training import add_word as adding
    from kws_dist.training import add_word_report as report
    from kws_dist.training.before_after import hear
    from kws_dist.training.job import build_job
    from kws_dist.training.ranks import for_this_machine, make_accelerator
    from kws_dist.training.rebuild import rebuild
    from kws_dist.training.session import run_job
    from kws_dist.training.stop import StopRequest

    console = Console(markup=False, highlight=False)
    wanted = adding.Wanted(
        run_dir=arguments.run_dir,
        root=arguments.root,
        out=arguments.out,
        recipe=arguments.config,
        shards=arguments.data.shards,
        rehearsal_clips=arguments.rehearsal_clips,
        speaker_from=arguments.speaker_from,
        split=arguments.split,
    )
    addition = adding.prepare(wanted, more_flags)
    _announce(console, addition)
    shards_display.print_plan(console, addition.joined)
    if addition.config.dry_run:
        return 0
    with shards_display.clips_bar(console, total=len(addition.joined.clips)) as on_clips:
        written = adding.write_shards(addition, ["python", *sys.argv], on_clips)
    console.print(f"1 of 3  {addition.data_dir}: {sum(written.meta.clips.values()):,} clips in shards", soft_wrap=True)
    console.print(f"2 of 3  training the last {addition.config.train.train_last_layers} layers", soft_wrap=True)
    keep_freed_memory()
    accelerator = make_accelerator(for_this_machine(addition.config.train))
    if accelerator.device.type == "cpu":
        use_cores()
    with StopRequest() as stop:
        run_job(build_job(addition.config, accelerator), stop)
    if RunFolder(arguments.out).status() != "finished":
        console.print("not finished, so there is no report yet; the same command goes on", soft_wrap=True)
        return 1
    console.print("3 of 3  the old words before and after, and the new ones", soft_wrap=True)
    after = rebuild(arguments.out, flag="--out")
    heard = hear(addition.trained, after, open_dataset(addition.data_dir), accelerator)
    content = report.figures(addition, heard)
    report.write(content, arguments.out)
    report.show(console, content, arguments.out)
    return 0


def _announce(console: Console, addition: "Addition") -> None:
    """Say what goes into the training, and what a person should know before the figures."""
    from kws_dist.rehearsal import FEW, LEAST_TO_TEST

    def warn(text: str) -> None:
        console.print(f"warning: {text}", style="yellow", soft_wrap=True)

    for word, count in addition.new_counts.items():
        console.print(
            f"new word {word!r}: {count['train']} recordings to train, {count['test']} to test", soft_wrap=True
        )
        if count.total() < FEW:
            warn(f"{word!r} has {count.total()} recordings; with fewer than {FEW} expect little")
        if not count["test"]:
            warn(
                f"{word!r} is not tested: that takes {LEAST_TO_TEST} recordings, or --split, and it has {count.total()}"
            )
    if left_out := addition.old.left_out.total():
        console.print(f"{left_out:,} clips of _unknown_ are of the new words, and are left out", soft_wrap=True)
    if addition.old.untold:
        warn(
            f"{addition.old.untold:,} clips of _unknown_ do not tell which word they hold: any of a new word among them"
            " would teach the model to refuse it"
        )
    if not addition.same_data:
        warn("the old clips are not of the data that the run was trained on: it may know some of the test clips")


if __name__ == "__main__":
    arguments, more = tyro.cli(
        Arguments,
        description=__doc__,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
    )
    raise SystemExit(main_guard(lambda: add_word(arguments, more), debug=arguments.debug))
