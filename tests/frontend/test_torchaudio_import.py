"""torchaudio is imported in one place, and works there whether or not its compiled extension does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What stands in the way of the extension, put before everything else that finds modules.
OBSTACLE = """
import importlib.abc, importlib.machinery, sys

class Obstacle(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    met = False
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "torchaudio._extension" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        Obstacle.met = True
        raise {error}

sys.meta_path.insert(0, Obstacle())
"""
USE = """
import torch
from kws_dist.frontend._torchaudio import functional, transforms
from kws_dist.frontend.features import LogMel

wave = torch.linspace(-1, 1, 16_000).sin()[None]
assert LogMel()(wave).shape == (1, 1, 40, 101)
assert transforms.MFCC(sample_rate=16_000, n_mfcc=13)(wave).shape[1] == 13
assert functional.resample(wave, 16_000, 8_000).shape == (1, 8_000)

import torchaudio  # whoever imports it later gets the one that works
assert torchaudio.transforms is transforms
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_it_imports_here_with_or_without_the_extension() -> None:
    done = run(USE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "error",
    [
        "OSError('libcudart.so.13: cannot open shared object file: No such file or directory')",
        "RuntimeError('Detected that PyTorch and TorchAudio were compiled with different CUDA versions.')",
    ],
)
def test_it_imports_where_the_extension_does_not_load(error: str) -> None:
    done = run(OBSTACLE.format(error=error) + USE + "\nassert Obstacle.met")
    assert done.returncode == 0, done.stderr


def test_an_error_that_the_extension_has_no_part_in_is_not_hidden() -> None:
    done = run(OBSTACLE.format(error="KeyError('something else')") + USE)
    assert done.returncode == 1
    assert "KeyError: 'something else'" in done.stderr


def test_nothing_else_imports_torchaudio() -> None:
    importing = set()
    for path in [path for folder in ("kws_dist", "launch", "tools") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == "torchaudio" for name in names):
                importing.add(path.relative_to(ROOT).as_posix())
    assert importing == {"kws_dist/frontend/_torchaudio.py"}
