"""Attack a training again and again, for minutes or for a day, and see whether it keeps its promises.

    python tools/chaos.py --out runs/chaos --kills 200 -- --data.shards DIR --config configs/quickstart.yaml
    python tools/chaos.py --out runs/chaos --hours 24 --processes 8 -- --data.shards DIR --config configs/bcresnet1.yaml

What follows -- is given to launch/train.py. First it trains undisturbed, then as often as it takes: killed, told to
stop in every way, frozen, its disk filled, at random moments, and started again by the same command until it is
finished. Each such run has to end finished, trained on exactly the clips that the undisturbed one was trained on;
on a CPU, with the same number of processes, its weights have to be the same bits. OUT/chaos.log has a line for each
attack and a table of all of them. Exit code 1: a promise was broken; the last line says which, and the run is kept.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from kws_dist.chaos import Campaign, Chaos
from kws_dist.chaos_attacks import FULL_DISK, kinds_for
from kws_dist.chaos_disk import check_given, small_disk
from kws_dist.chaos_log import ChaosLog
from kws_dist.errors import DataError, UsageError, main_guard
from kws_dist.run import RunFolder

_TRAIN = str(Path(__file__).parents[1] / "launch" / "train.py")
_OURS = ("--run_dir", "--resume", "--dry_run")
_ROOM = 12  # the small disk holds so many times what the undisturbed run left: checkpoints, drafts, and some more


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How a training is attacked; its own settings come after --."""

    out: Path
    """New folder for the runs and the log."""
    kills: int = 200
    """How many attacks have to hit a living job."""
    hours: float = 0.0
    """Attack for so long instead, however many attacks that makes."""
    processes: tuple[int, ...] = (1,)
    """Ranks on this machine. With several numbers the starts take turns, and only the draws are compared."""
    launcher: str = ""
    """What comes before launch/train.py instead of python or `accelerate launch`, with {processes} for their number."""
    reference: Path | None = None
    """A finished run of the same training with --tracking.draws, to compare with instead of training one."""
    tmpfs: Path | None = None
    """Where a small disk is mounted that may be filled; as root, one is mounted by itself."""
    hang_s: float = 600.0
    """A job that gives no sign of life for so long hangs."""
    seed: int = 0
    """Makes the attacks."""
    debug: bool = False
    """Show the traceback of an error."""


def chaos(arguments: Arguments, settings: Sequence[str]) -> int:
    """Do it; returns the exit code."""
    _check(arguments, settings)
    arguments.out.mkdir(parents=True)
    if not torch.cuda.is_available():  # `accelerate launch` would set several processes up for GPUs
        os.environ["ACCELERATE_USE_CPU"] = "true"
    log = ChaosLog(arguments.out / "chaos.log")
    log.note(f"seed {arguments.seed}, processes {arguments.processes}, training: {shlex.join(settings)}")
    reference = arguments.reference or _train_undisturbed(arguments, settings)
    with ExitStack() as stack:
        disk, why_not = arguments.tmpfs, ""
        if disk is None:
            disk, size_bytes = arguments.out / "disk", _ROOM * _bytes_in(reference) + (1 << 24)
            why_not = stack.enter_context(small_disk(disk, size_bytes))
        if why_not:
            log.note(f"skipped: {FULL_DISK.name}, because {why_not}; --tmpfs names one that is there")
        same_bits = len(set(arguments.processes)) == 1 and not torch.cuda.is_available()
        campaign = Campaign(
            commands=[lambda run_dir, n=n: _command(arguments, n, settings, run_dir) for n in arguments.processes],
            script=_TRAIN,
            reference=reference,
            out=arguments.out,
            disk=None if why_not else disk,
            kinds=kinds_for(max(arguments.processes), disk=not why_not),
            seed=arguments.seed,
            attacks=0 if arguments.hours else arguments.kills,
            hours=arguments.hours,
            same_bits=same_bits,
            hang_s=arguments.hang_s,
        )
        if not same_bits:
            log.note("weights are not compared: they are the same bits on a CPU with one number of processes only")
        problem = Chaos(campaign, log).run()
    for line in log.summary():
        log.note(line)
    log.note(f"BROKEN: {problem}" if problem else "all promises kept")
    return 1 if problem else 0


def _check(arguments: Arguments, settings: Sequence[str]) -> None:
    if not settings:
        raise UsageError("the settings of the training are missing: give them after --, such as -- --data.shards DIR")
    for word in settings:
        if word.partition("=")[0] in _OURS:
            raise UsageError(f"{word} after --: leave it out, each run has its own")
    if arguments.out.exists():
        raise UsageError(f"--out {arguments.out} exists: choose a new folder")
    if min(arguments.processes, default=0) < 1:
        raise UsageError(f"--processes {arguments.processes} should be 1 or more")
    if arguments.reference and RunFolder(arguments.reference).status() != "finished":
        raise UsageError(f"--reference {arguments.reference} is no finished run")
    if arguments.tmpfs:
        check_given(arguments.tmpfs)


def _command(arguments: Arguments, processes: int, settings: Sequence[str], run_dir: Path) -> list[str]:
    """Return the words that start the training on so many processes."""
    launcher = [sys.executable]
    if arguments.launcher:
        launcher = [word.replace("{processes}", str(processes)) for word in shlex.split(arguments.launcher)]
    elif processes > 1:
        accelerate = ("-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_machines", "1")
        launcher += [*accelerate, "--mixed_precision", "no", "--dynamo_backend", "no"]
        launcher += ["--num_processes", str(processes), "--main_process_port", "0"]
    return [*launcher, _TRAIN, *settings, "--run_dir", str(run_dir), "--tracking.draws"]


def _train_undisturbed(arguments: Arguments, settings: Sequence[str]) -> Path:
    reference = arguments.out / "reference"
    command = _command(arguments, arguments.processes[0], settings, reference)
    with (arguments.out / "reference.txt").open("wb") as said:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, check=False)
    if done.returncode or RunFolder(reference).status() != "finished":
        raise DataError(f"the undisturbed training was not finished (exit code {done.returncode}): see {said.name}")
    return reference


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at its first `--`."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the training ends, and the small disk goes, with this
    own, settings = _split(sys.argv[1:])
    arguments = tyro.cli(Arguments, args=own, description=__doc__, use_underscores=True)
    raise SystemExit(main_guard(lambda: chaos(arguments, settings), debug=arguments.debug))
