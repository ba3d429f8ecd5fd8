"""Beginning with the weights of another run, and training only a part of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kws_dist.config import TrainConfig
from kws_dist.errors import UsageError
from kws_dist.models.layers import layers
from kws_dist.training.checkpoint import WEIGHTS, Checkpoint, load
from kws_dist.training.rebuild import checkpoint_of

_HEAD = ("classifier.weight", "classifier.bias")
_COUNTER = "num_batches_tracked"
"""A batch norm's number of batches, which fits every other one: it goes with its norm, and is no weight."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What was taken over from another run."""

    source: Path
    kept: tuple[str, ...]
    """Tensors that were taken over whole."""
    new: tuple[str, ...]
    """Tensors that are as they were made: not there, or of another shape."""
    kept_words: tuple[str, ...]
    """Words whose rows of the classifier were taken over."""
    new_words: tuple[str, ...]

    def check_frozen(self, frozen: Collection[str]) -> None:
        """Raise `UsageError` if one of the parameters that are not trained was not taken over, and so is random."""
        random = [name for name in (*self.new, *(_HEAD if self.new_words else ())) if name in frozen]
        if random:
            raise UsageError(
                f"--train.freeze and --train.train_last_layers leave {listed(random)} untrained, and --init_from"
                f" {self.source} has nothing that fits there: they would stay random; freeze less"
            )

    def __str__(self) -> str:
        words = f"the rows of {listed(self.kept_words)}" if self.kept_words else "no word's row"
        new_words = f", new ones for {listed(self.new_words)}" if self.new_words else ""
        new = f"; new: {listed(self.new)}" if self.new else ""
        total = len(self.kept) + len(self.new)
        return f"{self.source}: {len(self.kept)} of {total} tensors{new}; of the classifier {words}{new_words}"


def open_source(path: Path) -> Checkpoint:
    """Read the best checkpoint of a run folder, or a checkpoint folder itself; `UsageError` if it is neither."""
    return load(checkpoint_of(path, flag="--init_from"), WEIGHTS)


@torch.no_grad()
def take_over(model: nn.Module, words: Sequence[str], source: Checkpoint) -> Transfer:
    """Copy the weights of `source` into `model` where names and shapes agree, and the rows of the words both know.

    The weights are those that `source` was evaluated with: the average, where there is one. Raises `UsageError` when
    no matrix and no kernel but the classifier's could be taken over: vectors of one length are found in any two models.
    """
    theirs = source.tensors.get("average", source.tensors["weights"])
    ours = model.state_dict()
    body = {name: tensor for name, tensor in ours.items() if name not in _HEAD and not name.endswith(_COUNTER)}
    kept = tuple(name for name, tensor in body.items() if name in theirs and theirs[name].shape == tensor.shape)
    if not any(ours[name].dim() > 1 for name in kept):
        raise UsageError(
            f"--init_from {source.path}: none of its weights fits this model; take the --model.name, --model.params and"
            " --features of that run, which its config.yaml has"
        )
    counters = [name.replace("running_mean", _COUNTER) for name in kept if name.endswith("running_mean")]
    for name in (*kept, *counters):
        ours[name].copy_(theirs[name])
    known = _rows_of_words(words, source.state["words"], ours, theirs)
    return Transfer(
        source=source.path,
        kept=kept,
        new=tuple(name for name in body if name not in kept),
        kept_words=tuple(word for word in words if word in known),
        new_words=tuple(word for word in words if word not in known),
    )


def _rows_of_words(
    words: Sequence[str], their_words: Sequence[str], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> set[str]:
    """Copy the classifier's rows of the words that both have, if it is as wide; return those words."""
    fits = all(name in theirs and theirs[name].shape[1:] == ours[name].shape[1:] for name in _HEAD)
    known = [word for word in words if word in their_words] if fits else []
    to, at = [words.index(word) for word in known], [their_words.index(word) for word in known]
    for name in _HEAD if known else ():
        ours[name][to] = theirs[name][at].to(ours[name].device)
    return set(known)


def freeze(model: nn.Module, train: TrainConfig) -> tuple[str, ...]:
    """Keep the parameters that the settings name from being trained; return their names.

    Raises `UsageError` where a pattern matches nothing, or nothing would be left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = {name for pattern in train.freeze for name in _matching(pattern, names)}
    if train.train_last_layers:
        of_layers = layers(model)
        if not 1 <= train.train_last_layers <= len(of_layers):
            raise UsageError(
                f"--train.train_last_layers {train.train_last_layers} should be from 1 to {len(of_layers)}, the number"
                " of layers of this model, or 0 for all"
            )
        frozen.update(name for layer in of_layers[: -train.train_last_layers] for name in layer)
    if len(frozen) == len(names):
        raise UsageError(f"--train.freeze {' '.join(train.freeze)} leaves nothing to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return tuple(name for name in names if name in frozen)


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules all of whose own parameters are frozen: their norms keep their statistics, too."""
    norms = [(parent, norm) for parent in model.modules() for norm in parent.children() if isinstance(norm, _BatchNorm)]
    whose = [(norm, list(norm.parameters()) or list(parent.parameters())) for parent, norm in norms]
    return [norm for norm, own in whose if own and not any(one.requires_grad for one in own)]


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        near = get_close_matches(pattern, names, 1, cutoff=0.3) or names[:1]
        raise UsageError(f"--train.freeze {pattern!r} matches no parameter of this model; one is called {near[0]!r}")
    return matches


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return the names as they are told to a person: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
