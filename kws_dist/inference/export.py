"""A trained model as one file for other programs, and beside it a JSON file with all else that it takes to use it."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from kws_dist import models
from kws_dist.assemble import model_params
from kws_dist.errors import UsageError
from kws_dist.files import write_whole
from kws_dist.training.checkpoint import MANIFEST
from kws_dist.training.rebuild import Rebuilt

Write = Callable[[Rebuilt], bytes]


def export(trained: Rebuilt, out: Path) -> list[Path]:
    """Write the model in the format that the ending of `out` names, and `about` beside it; return both.

    The description is called like the file, with `.json` behind it all, so that each of two formats has its own.

    Raises `UsageError` for an ending that is none of `FORMATS` and a folder that does not exist.
    """
    write = FORMATS.get(out.suffix.lower())
    if write is None:
        raise UsageError(f"--out {out}: name a file that ends in {' or '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UsageError(f"--out {out}: this is a folder; name a file in it")
    if (out.parent / MANIFEST).is_file():
        raise UsageError(f"--out {out}: {out.parent} is a checkpoint, which stays as it is; choose another folder")
    beside = out.with_name(f"{out.name}.json")
    if beside.exists() and not _describes_an_export(beside):
        raise UsageError(
            f"--out {out}: {beside} is there already, and is no description of an export; name another file"
        )
    content = write(trained)
    described = {"file": out.name, "sha256": hashlib.sha256(content).hexdigest(), **about(trained)}
    write_whole(out, content)
    write_whole(beside, (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode())
    return [out, beside]


def _describes_an_export(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"file", "sha256", "words", "model"} <= content.keys()


def about(trained: Rebuilt) -> dict[str, Any]:
    """Return, in plain types, what the weights alone do not say.

    `models.build(**model)`, of `kws_dist`, makes the model that they fit, `words` are its outputs in their order, and
    `features` and `hears` say what its input is made of.
    """
    data, state = trained.config.data, trained.state
    return {
        "words": list(trained.words),
        "model": {"name": trained.config.model.name, "num_classes": len(trained.words), **_params(trained)},
        "hears": {
            "sample_rate_hz": state["sample_rate_hz"],
            "clip_seconds": data.clip_seconds,
            "pad": data.pad,
            "long": data.long,
        },
        "features": asdict(trained.config.features),
        "feature_statistics": state.get("feature_statistics"),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "step": state["step"],
        "seed": trained.config.seed,
    }


def _params(trained: Rebuilt) -> dict[str, Any]:
    """Return all parameters of the architecture, those that the features decide among them."""
    defaults = models.list_params(trained.config.model.name)
    return {**defaults, **model_params(trained.config, trained.state["sample_rate_hz"])}


def _state_dict(trained: Rebuilt) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}


def _torch_file(trained: Rebuilt) -> bytes:
    """Make what `torch.load(file, weights_only=True)` returns as a state dict, for `load_state_dict`."""
    file = io.BytesIO()
    torch.save(_state_dict(trained), file)
    return file.getvalue()


def _safetensors(trained: Rebuilt) -> bytes:
    return safetensors.torch.save(_state_dict(trained))


FORMATS: dict[str, Write] = {".pt": _torch_file, ".safetensors": _safetensors}
"""What makes the content of a file, by its ending."""
