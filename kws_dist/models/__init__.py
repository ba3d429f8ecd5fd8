"""Architectures, one file each: features `(B, 1, mels, frames)` float32 in, logits `(B, num_classes)` out.

A model knows nothing of ranks, devices or files. To add one:

1. Write a file with a `build(num_classes, *, ...)` whose keyword arguments are the architecture's parameters. `mels`
   and `frames` among them are filled in with the bins and frames of the features.
2. Give the module `encode(features) -> (B, width, frames')`, which is what it pools over time, and a last layer
   `classifier` with a row for each word; register its layers in the order in which data flow through them.
3. Name the file in `_ARCHITECTURES`. The tests in tests/models/test_models.py then hold for it.
"""

import inspect
import math
from collections.abc import Callable
from difflib import get_close_matches

from torch import nn

from kws_dist.errors import UsageError
from kws_dist.models import (
    att_rnn,
    bcresnet,
    cnn4,
    cnn_lstm,
    crnn,
    ds_cnn,
    gru,
    kwt,
    m5,
    matchboxnet,
    mhatt_rnn,
    res15,
    rnn,
    tc_resnet,
)

_ARCHITECTURES = (
    att_rnn,
    bcresnet,
    cnn4,
    cnn_lstm,
    crnn,
    ds_cnn,
    gru,
    kwt,
    m5,
    matchboxnet,
    mhatt_rnn,
    res15,
    rnn,
    tc_resnet,
)

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    architecture.__name__.rpartition(".")[2]: architecture.build for architecture in _ARCHITECTURES
}


def list_models() -> list[str]:
    """The names `build` knows, in alphabetical order."""
    return sorted(_BUILDERS)


def list_params(name: str) -> dict[str, object]:
    """The parameters of architecture `name` and their defaults."""
    signature = inspect.signature(_find(name))
    return {key: param.default for key, param in signature.parameters.items() if key != "num_classes"}


def takes_waveforms(name: str) -> bool:
    """Return whether architecture `name` hears samples, `(B, 1, 1, samples)`; the others take bins of frames."""
    return _find(name) in (m5.build,)


def build(name: str, num_classes: int, **params: object) -> nn.Module:
    """A freshly initialised model: `(B, 1, mels, frames)` float32 -> logits `(B, num_classes)`.

    Args:
        name: one of `list_models()`.
        num_classes: width of the logits.
        params: the architecture's own parameters, as `list_params(name)` gives them.
    """
    builder = _find(name)
    valid = list_params(name)
    for key in params:
        if key not in valid:
            raise UsageError(f"model {name!r} has no parameter {key!r}{_hint(key, valid)}")
        kind = type(valid[key])
        if kind is bool and isinstance(params[key], str):
            params[key] = _TRUTH.get(params[key], params[key])  # a command line has words
        if not _is_a(params[key], kind):
            raise UsageError(f"model {name!r} needs {key} to be {_KINDS[kind]}, got {params[key]!r}")
    if type(num_classes) is not int or num_classes < 1:
        raise UsageError(f"model {name!r} needs num_classes, a whole number of 1 or more, got {num_classes!r}")
    return builder(num_classes, **params)


_TRUTH: dict[object, bool] = {"true": True, "yes": True, "false": False, "no": False}
_KINDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word"}


def _is_a(value: object, kind: type) -> bool:
    """Whether a value may stand for a parameter whose default is of this kind."""
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # pyright: ignore[reportArgumentType]
    return type(value) is kind


def _find(name: str) -> Callable[..., nn.Module]:
    if name not in _BUILDERS:
        raise UsageError(f"no model is called {name!r}{_hint(name, list_models())}")
    return _BUILDERS[name]


def _hint(word: str, valid: list[str] | dict[str, object]) -> str:
    """`; perhaps you meant 'x'; choose from a, b, x`"""
    close = get_close_matches(word, valid, n=1)
    meant = f"; perhaps you meant {close[0]!r}" if close else ""
    return f"{meant}; choose from {', '.join(valid)}"
