"""Compare what runs have left behind."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from kws_dist.training.checkpoint import step_folders


def all_tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    last = step_folders(run_dir / "checkpoints")[-1]
    return {
        f"{last.name}/{file.name}/{name}": tensor
        for file in last.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def assert_identical(a: Path, b: Path) -> None:
    of_a, of_b = all_tensors(a), all_tensors(b)
    assert of_a.keys() == of_b.keys()
    assert [name for name in of_a if not torch.equal(of_a[name], of_b[name])] == []


def result_without_times(run_dir: Path) -> dict[str, object]:
    """The result without what depends on the machine's mood: times, speeds, memory."""
    result = json.loads((run_dir / "result.json").read_text())
    moods = ("inference", "peak_memory_bytes")
    return {name: value for name, value in result.items() if not name.startswith("train_") and name not in moods}
