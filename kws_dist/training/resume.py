"""Where a job begins: at a checkpoint of its run, at one that was named, or from scratch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kws_dist.config import Config, load_text
from kws_dist.errors import DataError, UsageError
from kws_dist.run import RunFolder
from kws_dist.training import checkpoint
from kws_dist.training.checkpoint import Checkpoint
from kws_dist.training.progress import Progress
from kws_dist.training.timetable import Timetable

FINISHED = "finished"
_ORDERS_MEMORY = ("freeze", "train_last_layers", "layer_decay", "decay_norms")
"""Settings by which the optimizer's parameters are chosen and numbered."""


def where(
    run: RunFolder, config: Config, facts: dict[str, Any], *, steps_per_epoch: int, on_skip: Callable[[str], None]
) -> str | None:
    """Return the checkpoint folder to go on from, None to begin from scratch, or `FINISHED`.

    Raises `UsageError` when the run was made with other data or settings, `DataError` when it has checkpoints but
    none is whole. `on_skip` is told of damaged checkpoints that are passed over.
    """
    if config.resume not in ("auto", "never") and not _has_own(run, Path(config.resume)):
        found = checkpoint.load(_existing(Path(config.resume)))
        if config.init_from:
            raise UsageError(
                f"--resume {config.resume} and --init_from {config.init_from} both say what to begin with: leave one"
                " out"
            )
        _check_facts(found, facts, f"--resume {config.resume}")
        _check_shapes(found, config)
        return str(found.path)
    if run.status() is None and not checkpoint.step_folders(run.checkpoints):
        return None
    if config.resume == "never":
        raise UsageError(f"--run_dir {run.path} holds a run already: choose another, or --resume auto to go on with it")
    found = checkpoint.newest(run.checkpoints, on_skip)
    if found is None and checkpoint.step_folders(run.checkpoints):
        raise DataError(f"{run.checkpoints} holds no checkpoint that is whole: begin again with another --run_dir")
    if found:
        _check_facts(found, facts, f"--run_dir {run.path}")
    run.check_same_settings(config)
    if found is None:
        return None
    timetable, progress = Timetable(config.train, steps_per_epoch), Progress(**found.state["progress"])
    reached_end = progress.step >= timetable.total_steps
    reached_end |= progress.out_of_patience(timetable.patience_steps)
    reached_end |= progress.out_of_time(config.train.max_minutes)
    return FINISHED if run.status() == "finished" and reached_end else str(found.path)


def _has_own(run: RunFolder, path: Path) -> bool:
    """Whether the run has got beyond the checkpoint that it began at: the same command then goes on with its own."""
    if path.resolve().is_relative_to(run.checkpoints.resolve()):
        raise UsageError(f"--resume {path} lies in --run_dir {run.path}, which goes on with its newest: choose another")
    return bool(checkpoint.step_folders(run.checkpoints))


def _check_shapes(found: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint whose tensors are not those of the model that is asked for."""
    was = load_text(found.state.get("config", ""), name=str(found.path))
    averages = bool(was.train.ema_decay) == bool(config.train.ema_decay)
    if was.model != config.model or was.train.optimizer != config.train.optimizer or not averages:
        raise UsageError(
            f"--resume {config.resume} is of another model, optimizer or --train.ema_decay: give the same, or take its"
            " weights alone with --init_from"
        )
    for name in _ORDERS_MEMORY:
        then, now = getattr(was.train, name), getattr(config.train, name)
        if then != now:
            raise UsageError(
                f"--resume {config.resume} was trained with --train.{name} {then}, not {now}, and its optimizer's"
                " memory is of other parameters: give the same, or take its weights alone with --init_from"
            )


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"--resume {path}: there is no such checkpoint; give auto, never or a checkpoint folder")
    return path


def _check_facts(found: Checkpoint, facts: dict[str, Any], what: str) -> None:
    """Refuse to go on when the draws to come would not be those that the checkpoint was on the way to."""
    state = found.state
    progress = state.get("progress")
    if (
        {"step", *facts} - state.keys()
        or not isinstance(progress, dict)
        or progress.keys() != Progress().__dict__.keys()
    ):
        raise DataError(
            f"{found.path / checkpoint.STATE} does not say all that going on takes, as of another version of this"
            " program: begin again with another --run_dir, with its weights if you like (--init_from)"
        )
    if state["dataset_digest"] != facts["dataset_digest"]:
        raise UsageError(
            f"{what} was trained on another dataset (digest {state['dataset_digest'][:12]}, and --data.shards has"
            f" {facts['dataset_digest'][:12]}): give the shards that it began with, or choose another --run_dir"
        )
    for name, now in facts.items():
        if state[name] != now:
            raise UsageError(f"{what}: {_difference(name, state[name], now)}; go back, or choose another --run_dir")


def _difference(name: str, was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            if was.get(key) != now.get(key):
                return _difference(f"{name}.{key}", was.get(key), now.get(key))
    return f"{name} was {was} and is now {now}"
