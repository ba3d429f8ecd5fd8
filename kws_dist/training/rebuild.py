"""A trained model from its run folder alone: weights, labels and settings of the best checkpoint."""

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
from kws_dist.training.checkpoint import WEIGHTS, Checkpoint, Tensors, best_path, load


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


def rebuild(run_dir: Path, *, flag: str = "--run_dir") -> Rebuilt:
    """Rebuild the best model of a run, which `flag` named.

    `UsageError` if there is none, `DataError` if it is damaged or was not made by this program.
    """
    path = best_path(run_dir / "checkpoints")
    if not path.is_dir():
        raise UsageError(f"{flag} {run_dir} holds no trained model: there is no {path}")
    return rebuild_from(load(path, WEIGHTS))


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
