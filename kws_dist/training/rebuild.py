"""A trained model from its run folder alone: weights, labels and settings of the best checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kws_dist.config import Config, load_text
from kws_dist.errors import UsageError
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.training.checkpoint import Checkpoint, best_path, load
from kws_dist.training.front_end import evaluation_front_end
from kws_dist.training.learner import build_model, stored_statistics


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


def rebuild(run_dir: Path) -> Rebuilt:
    """Rebuild the best model of a run. `UsageError` if there is none, `DataError` if it is damaged."""
    path = best_path(run_dir / "checkpoints")
    if not path.is_dir():
        raise UsageError(f"--run_dir {run_dir} holds no trained model: there is no {path}")
    return rebuild_from(load(path))


def rebuild_from(checkpoint: Checkpoint) -> Rebuilt:
    """Rebuild the model of a checkpoint."""
    state = checkpoint.state
    config = load_text(state["config"], name=str(checkpoint.path))
    words = tuple(state["words"])
    model = build_model(config, len(words))
    tensors = checkpoint.tensors
    model.load_state_dict(tensors.get("average", tensors["weights"]))
    front_end = evaluation_front_end(config.features, state["sample_rate_hz"], stored_statistics(state))
    return Rebuilt(model, front_end, words, config, state)
