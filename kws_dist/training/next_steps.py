"""The exact commands that are likely to come after a training: whole, for a shell in the same folder."""

import os
import shlex
import sys
from pathlib import Path

import kws_dist
from kws_dist.training import launcher
from kws_dist.training.job import Job

_PROJECT = Path(kws_dist.__file__).parents[1]


def after_end(job: Job, steps: int) -> list[str]:
    """Return the commands to evaluate, predict and export, and to train on from step `steps`."""
    folder = str(job.run.path)
    commands = [
        _python("launch/evaluate.py", "--run_dir", folder),
        _python("tools/predict.py", "--run_dir", folder, "recording.wav"),
        _python("tools/export.py", "--run_dir", folder, "--out", str(job.run.path / "model.pt")),
    ]
    longer = _again(job, **_longer(job, steps))
    return [*commands, longer] if longer else commands


def after_stop(job: Job) -> list[str]:
    """Return the command that goes on where this job stopped; none if it cannot be known."""
    same = _again(job)
    return [same] if same else []


def _longer(job: Job, steps: int) -> dict[str, object]:
    """Return the flags with which a finished run goes on: without what ended it early, or else twice as long."""
    train = job.config.train
    if steps < job.total_steps:
        limits = {"--train.patience_epochs": train.patience_epochs, "--train.max_minutes": train.max_minutes}
        return {flag: 0 for flag, value in limits.items() if value}
    return {"--train.steps": 2 * train.steps} if train.steps else {"--train.epochs": 2 * train.epochs}


def _again(job: Job, **options: object) -> str:
    """Return this job's own command with these flags set; "" if it cannot be known."""
    words = launcher.command()
    if job.config.resume != "auto":
        options["--resume"] = "auto"  # the run exists now
    return launcher.command_line(words, **options) if words else ""


def _python(script: str, *arguments: str) -> str:
    return shlex.join([launcher.typed(sys.executable), os.path.relpath(_PROJECT / script), *arguments])
