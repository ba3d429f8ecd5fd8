"""Hand over the model of a trained run as one file.

    python tools/export.py --run_dir runs/mine --out mine.pt
    python tools/export.py --run_dir runs/mine --out mine.safetensors

The file holds the weights that were evaluated best, averaged ones if the run averaged. `mine.pt.json`, beside it,
says the rest: words, architecture, features. With both, no run folder is needed:

    import json, torch
    from kws_dist import models

    with open("mine.pt.json") as file:
        about = json.load(file)
    model = models.build(**about["model"])
    model.load_state_dict(torch.load("mine.pt", weights_only=True))
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from kws_dist.errors import UsageError, main_guard


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which model, and where to."""

    run_dir: Path
    """Folder of the run, or of a checkpoint."""
    out: Path
    """The file; its ending says the format: .pt is a state dict as plain torch loads it, .safetensors the same."""
    debug: bool = False
    """Show the traceback of an error."""


def hand_over(arguments: Arguments) -> None:
    """Rebuild, write, say so."""
    from kws_dist.inference.export import export  # torch takes seconds to load, and --help does without
    from kws_dist.training.rebuild import rebuild

    if not arguments.run_dir.is_dir():
        raise UsageError(f"--run_dir {arguments.run_dir}: there is no such folder; name that of a run")
    trained = rebuild(arguments.run_dir)
    for path in export(trained, arguments.out):
        print(f"{path}: {path.stat().st_size / 1000:,.1f} kB")


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True, config=(tyro.conf.FlagCreatePairsOff,))
    raise SystemExit(main_guard(lambda: hand_over(arguments), debug=arguments.debug))
