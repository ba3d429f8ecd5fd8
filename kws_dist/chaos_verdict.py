"""What a run that was attacked has to have in common with an undisturbed one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from kws_dist.draw_log import difference, problem, read_draws
from kws_dist.errors import DataError
from kws_dist.run import RunFolder


def verdict(run_dir: Path, reference: Path, *, same_bits: bool) -> str:
    """Say where a run first breaks a promise; "" if nowhere.

    Both runs were trained with a draw log. `same_bits`: the weights and figures have to be the same as well, which
    they are on a CPU with as many processes.
    """
    try:
        run, steps = RunFolder(run_dir), _steps(reference)
        if run.status() != "finished":
            return f"{run_dir} is {run.status()}, not finished"
        if _steps(run_dir) != steps:
            return f"{run_dir} ended at step {_steps(run_dir)}, and the undisturbed run at step {steps}"
        draws = read_draws(run_dir)
        found = problem(draws, steps=steps) or difference(draws, read_draws(reference))
        if found:
            return f"{run_dir / 'draws'}: {found}"
        return _other_bits(run_dir, reference) or _other_figures(run_dir, reference) if same_bits else ""
    except DataError as error:
        return str(error)


def _steps(run_dir: Path) -> int:
    return json.loads((run_dir / "state.json").read_bytes())["step"]


def _other_bits(run_dir: Path, reference: Path) -> str:
    """Compare the newest checkpoint and the best one, file by file."""
    newest = max(path.name for path in (reference / "checkpoints").glob("step-*"))
    for checkpoint in (newest, "best"):
        ours, theirs = run_dir / "checkpoints" / checkpoint, reference / "checkpoints" / checkpoint
        if not ours.is_dir():
            return f"{ours} is missing"
        names = sorted({path.name for folder in (ours, theirs) for path in folder.glob("*.safetensors")})
        for name in names:
            if not ((ours / name).exists() and (theirs / name).exists()):
                return f"{ours / name} is in one of the runs only"
            if (ours / name).read_bytes() != (theirs / name).read_bytes():
                return f"{ours / name} is not the same{_first_tensor(ours / name, theirs / name)}"
    return ""


def _first_tensor(ours: Path, theirs: Path) -> str:
    a, b = load_file(ours), load_file(theirs)
    other = [name for name in a if name not in b or not torch.equal(a[name], b[name])]
    return f": {other[0]} differs first, {len(other)} of {len(a)} do" if other else ""


def _other_figures(run_dir: Path, reference: Path) -> str:
    ours, theirs = _figures(run_dir), _figures(reference)
    other = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    if not other:
        return ""
    return f"{run_dir / 'result.json'}: {other[0]} is {ours.get(other[0])}, not {theirs.get(other[0])}"


def _figures(run_dir: Path) -> dict[str, Any]:
    result = RunFolder(run_dir).result()
    figures = {f"{split}.{name}": value for split in ("val", "test") for name, value in result.get(split, {}).items()}
    return figures | {"best_step": result.get("best_step")}
