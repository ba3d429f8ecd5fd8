"""A trained model from its run folder alone, or from a checkpoint folder alone: weights, labels and settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kws_dist.assemble import features_of, model_of
from kws_dist.config import Config, load_text
from kws_dist.errors import DataError, UsageError, sentence
from kws_dist.frontend.normalize import Statistics
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.run import RunFolder
from kws_dist.training.checkpoint import MANIFEST, WEIGHTS, Checkpoint, Tensors, best_path, load, step_folders


@dataclass(frozen=True)
class Rebuilt:
    """What it takes to use a trained model."""

    model: nn.Module
    """On the CPU, with the weights that were evaluated: averaged ones if the run averaged."""
    front_end: FrontEnd
    words: tuple[str, ...]
    config: Config
    state: dict[str, Any]
    """The checkpoint's own record: step, seed, dataset digest, versions."""


def rebuild(path: Path, *, flag: str = "--run_dir") -> Rebuilt:
    """Rebuild the best model of a run, or that of a checkpoint folder, wherever it lies; `flag` named the path.

    `UsageError` if there is none, `DataError` if it is damaged or was not made by this program.
    """
    chosen = checkpoint_of(path, flag=flag)
    try:
        return rebuild_from(load(chosen, WEIGHTS))
    except DataError as error:
        if chosen == path or not (remedy := _remedy(path)):
            raise
        raise DataError(f"{error}{remedy}") from error


def checkpoint_of(path: Path, *, flag: str) -> Path:
    """Return the best checkpoint of a run folder, or the path itself if it is a checkpoint; `UsageError` if neither."""
    if (path / MANIFEST).is_file():
        return path
    best = best_path(path / "checkpoints")
    if best.is_dir():
        return best
    raise UsageError(
        f"{flag} {path} holds no trained model: it is no checkpoint, and there is no {best}{_remedy(path)}"
    )


def _remedy(run_dir: Path) -> str:
    """Say what can be used of a run whose best checkpoint cannot."""
    steps = step_folders(run_dir / "checkpoints")
    return f"; its newest checkpoint is {steps[-1]}, which can be named instead" if steps else ""


def unfinished(path: Path) -> str:
    """Return what to say of a run folder whose run has not reached its end; "" of any other folder."""
    try:
        status = RunFolder(path).status()
    except DataError:
        return ""  # a run is used by its checkpoint, which says what is wrong with itself
    if status in (None, "finished"):
        return ""
    return f"{path} has not reached the end of its training: this is its best model so far"


def rebuild_from(checkpoint: Checkpoint) -> Rebuilt:
    """Rebuild the model of a checkpoint; `DataError` if it holds none."""
    try:
        return _rebuilt(checkpoint.state, checkpoint.tensors, name=str(checkpoint.path))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # whole, but not of our making
        raise DataError(f"{checkpoint.path} holds no model of this program ({sentence(error)})") from error


def _rebuilt(state: dict[str, Any], tensors: Mapping[str, Tensors], *, name: str) -> Rebuilt:
    config = load_text(state["config"], name=name)
    words = tuple(state["words"])
    sample_rate_hz = state["sample_rate_hz"]
    model = model_of(config, len(words), sample_rate_hz)
    model.load_state_dict(tensors.get("average", tensors["weights"]))
    front_end = FrontEnd(features_of(config.features, sample_rate_hz, stored_statistics(state)))
    return Rebuilt(model, front_end, words, config, state)


def stored_statistics(state: dict[str, Any]) -> Statistics | None:
    """Return the feature statistics in the state of a checkpoint, if it has some."""
    stored = state.get("feature_statistics")
    return Statistics.from_json(stored) if stored else None
