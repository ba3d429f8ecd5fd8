"""Ask a trained run which words recordings hold.

    python tools/predict.py --run_dir runs/mine yes.wav other.mp3 folder
    python tools/predict.py --run_dir runs/mine --json interview.flac > heard.jsonl

Recordings may have any form that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, AIFF ...), any rate and any number of
channels; folders are searched. One longer than a clip is heard through a sliding window, and neighbouring windows with
the same word are shown as one stretch, with the score of the surest. After the words comes how fast the model answers
on this device: a clip at a time, and in batches. Exit code 0: all files were heard. 1: some cannot be read; they are
named, and the others were heard. 2: wrong use.
"""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from kws_dist.errors import UsageError, end_with_the_reader, main_guard, printable


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which model, which recordings, what to show."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|DIR...")]
    """Recordings, and folders of them."""
    run_dir: Path
    """Folder of the run, or of a checkpoint."""
    top: int = 3
    """How many of the most probable words to show."""
    json: bool = False
    """Print a JSON object in a line for each file, and a last one with the speed, and nothing else."""
    hop_s: float | None = None
    """How far apart the windows on a recording longer than a clip begin; default: 0.25, or a shorter clip's length."""
    min_score: float = 0.0
    """Of a recording longer than a clip show only stretches whose word is at least so probable, from 0 to 1."""
    device: str = ""
    """cpu, cuda, cuda:1, ... Default: the GPU, where there is one."""
    debug: bool = False
    """Show the traceback of an error."""


def predict(arguments: Arguments) -> int:
    """Load, listen, print; returns the exit code."""
    if not arguments.paths:
        raise UsageError("name recordings or folders of them, e.g. tools/predict.py --run_dir runs/mine yes.wav")
    if arguments.top < 1:
        raise UsageError(f"--top {arguments.top}: how many words to show, at least 1")
    if not 0.0 <= arguments.min_score <= 1.0:
        raise UsageError(f"--min_score {arguments.min_score:g}: a probability, from 0 to 1")
    from kws_dist import inference, latency  # torch takes seconds to load, and --help does without
    from kws_dist.inference.files import Heard, listen
    from kws_dist.inference.table import as_json, as_table
    from kws_dist.process import use_cores
    from kws_dist.recording import find
    from kws_dist.training.rebuild import unfinished

    files = find(arguments.paths)
    use_cores()
    predictor = inference.load(arguments.run_dir, arguments.device or None)
    predictor.hop_samples(arguments.hop_s)  # says at once if it is wrong
    if note := unfinished(arguments.run_dir):
        print(note, file=sys.stderr)

    def heard_with_faults() -> Iterator[Heard]:
        console = Console(stderr=True, markup=False, highlight=False)
        with console.status("listening") as status:
            for number, heard in enumerate(listen(predictor, files, hop_s=arguments.hop_s), 1):
                status.update(f"listening: {number:,} of {len(files):,} files")
                if heard.fault:
                    console.print(printable(heard.fault), soft_wrap=True)
                else:
                    heard_files.append(heard.path)
                yield heard.surer_than(arguments.min_score)

    heard_files: list[Path] = []
    if arguments.json:
        for heard in heard_with_faults():
            line = json.dumps(as_json(heard, arguments.top), ensure_ascii=True)  # a file name may be no text
            print(line, flush=True)
    else:
        console = Console(markup=False, highlight=False)
        shown = [heard for heard in heard_with_faults() if not heard.fault]
        if shown:
            console.print(as_table(shown, arguments.top))
    speed = latency.measure(predictor.front_end, predictor.model, predictor.clip_samples, predictor.device)
    print(json.dumps({"speed": asdict(speed)}) if arguments.json else f"speed: {speed}")
    return 0 if len(heard_files) == len(files) else 1


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True, config=(tyro.conf.FlagCreatePairsOff,))
    end_with_the_reader()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    raise SystemExit(main_guard(lambda: predict(arguments), debug=arguments.debug))
