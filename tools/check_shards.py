"""The data doctor: proves that a folder of shards is as it was written, and says what is odd about the recordings.

    python tools/check_shards.py data/mine
    python tools/check_shards.py data/mine --plot mine.png --run_dir runs/mine

Exit code 0: nothing is wrong. 1: a file is damaged, missing, swapped, edited or left over; or a speaker is in two
splits; or the same audio is in two splits or under two words. Clipped, silent, near-empty and cut-off recordings,
doubles within a word and words without clips are warnings: they are listed, and the exit code stays 0. 2: wrong use.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from kws_dist import checkup_display as show
from kws_dist.corpus.clip import NOISE_SPLIT, SAMPLE_RATE_HZ, SPLITS
from kws_dist.errors import UsageError, main_guard
from kws_dist.shards.checkup import Checkup, check_up
from kws_dist.shards.examine import read_clips
from kws_dist.shards.figures import clips_per_word, middle_clips

if TYPE_CHECKING:
    from kws_dist.evaluation.suspects import Suspect  # torch takes seconds to load, and most checks do without


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to look at, and what to show of it."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of shards that tools/make_shards.py made."""
    json: bool = False
    """Print one JSON object with everything, with the keys of all clips concerned, and nothing else."""
    plot: Path | None = None
    """Write a page of small pictures as this PNG: counts, lengths, loudness, a log-mel of each word."""
    run_dir: Path | None = None
    """A trained run: list the clips whose label its model believes least (highest loss)."""
    worst: int = 20
    """How many of these."""
    workers: int = 0
    """Threads; 0 is one for each processor core."""
    debug: bool = False
    """Show the traceback of an error."""


def check(arguments: Arguments) -> int:
    """Look at the folder and show what there is to show; returns the exit code."""
    _refuse_wrong_use(arguments)
    with Console(stderr=True).status("verifying") as status:
        workers = arguments.workers or len(os.sched_getaffinity(0))
        checkup = check_up(arguments.folder, workers=workers, say=status.update)
        if arguments.plot is not None:
            status.update("drawing")
            _draw(checkup, arguments.plot)
        suspects = None
        if arguments.run_dir is not None and not checkup.verified.faults:
            status.update("asking the model")
            suspects = _suspects(arguments.folder, arguments.run_dir, arguments.worst)
    if arguments.json:
        listed = None if suspects is None else [asdict(suspect) for suspect in suspects]
        print(json.dumps({**checkup.to_dict(), "suspects": listed}, indent=1, ensure_ascii=False))
    else:
        _print(checkup, suspects, arguments)
    return 0 if checkup.is_fine else 1


def _refuse_wrong_use(arguments: Arguments) -> None:
    if arguments.workers < 0:
        raise UsageError(f"--workers {arguments.workers}: 0 for one for each core, or a number of threads")
    if arguments.worst < 1:
        raise UsageError(f"--worst {arguments.worst}: how many clips to list, at least 1")
    if arguments.plot is not None and not arguments.plot.parent.is_dir():
        raise UsageError(f"--plot {arguments.plot}: there is no folder {arguments.plot.parent}")
    if arguments.run_dir is not None and not arguments.run_dir.is_dir():
        raise UsageError(f"--run_dir {arguments.run_dir}: there is no such folder")


def _print(checkup: Checkup, suspects: "list[Suspect] | None", arguments: Arguments) -> None:
    console = Console(markup=False, highlight=False)
    show.print_checkup(console, checkup)
    if suspects is not None:
        table = show.simple_table(["clip", "split", "label", "heard", "loss"], right=["loss"])
        for one in suspects:
            heard = f"{one.heard} ({100 * one.heard_probability:.0f} %)"
            table.add_row(one.key, one.split, one.word, heard, f"{one.loss:.2f}")
        console.print(f"labels that the model of {arguments.run_dir} believes least", style="bold", soft_wrap=True)
        console.print(table)
    elif arguments.run_dir is not None:
        console.print(f"the model of {arguments.run_dir} was not asked: mend the faults first\n", soft_wrap=True)
    if arguments.plot is not None:
        drawn = (
            f"pictures: {arguments.plot}" if _has_words(checkup) else "no pictures: there is no whole clip of a word"
        )
        console.print(drawn, soft_wrap=True)
    show.print_verdict(console, checkup)


def _has_words(checkup: Checkup) -> bool:
    return checkup.clips is not None and bool((checkup.clips.split != NOISE_SPLIT).any())


def _draw(checkup: Checkup, path: Path) -> None:
    from kws_dist.evaluation.clip_page import ClipPage, draw_clip_page

    clips = checkup.clips
    if clips is None or not _has_words(checkup):
        return
    pictured = middle_clips(clips)
    samples = read_clips(checkup.verified, list(pictured.values()))
    spoken = clips.split != NOISE_SPLIT
    splits = [split for split in SPLITS if (clips.split == split).any()]
    page = ClipPage(
        title=f"{checkup.verified.root}: {spoken.sum():,} clips of {len(clips.vocabulary)} words",
        sample_rate_hz=SAMPLE_RATE_HZ,
        counts={split: clips_per_word(clips, split) for split in splits},
        lengths_s=clips.n_samples[spoken] / SAMPLE_RATE_HZ,
        levels_dbfs={word: clips.measures["level_dbfs"][spoken & (clips.word == word)] for word in clips.vocabulary},
        pictured={word: (key, samples[key]) for word, key in pictured.items()},
    )
    draw_clip_page(page, path)


def _suspects(folder: Path, run_dir: Path, worst: int) -> "list[Suspect]":
    import torch

    from kws_dist.evaluation.suspects import suspects
    from kws_dist.process import keep_freed_memory, use_cores
    from kws_dist.training.data import open_data
    from kws_dist.training.rebuild import rebuild

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    use_cores()
    trained = rebuild(run_dir)
    given = trained.config.data
    long = "start" if given.long == "error" else given.long  # a clip longer than the model hears is asked about too
    config = replace(given, shards=str(folder), residency="host", on_bad_clip="error", long=long)
    data = open_data(config, device, SPLITS, words=trained.words)
    model, front_end = trained.model.to(device), trained.front_end.to(device)
    return suspects(data.stores, model, front_end, trained.words, worst=worst, device=device)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True, config=(tyro.conf.FlagCreatePairsOff,))
    raise SystemExit(main_guard(lambda: check(arguments), debug=arguments.debug))
