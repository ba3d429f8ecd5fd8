"""What there is to train, and what runs have saved.

python tools/runs.py models
python tools/runs.py models bcresnet gru --json models.json
python tools/runs.py verify runs/bcresnet1
python tools/runs.py prune runs/bcresnet1
"""

import json as jsonlib
from dataclasses import asdict
from pathlib import Path

import torch
import tyro
from rich.console import Console

from kws_dist import model_table
from kws_dist.errors import UsageError, main_guard
from kws_dist.process import use_cores
from kws_dist.training import inventory

_CONFIGS = Path(__file__).parents[1] / "configs"


def models(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    num_classes: int = 12,
    json: Path | None = None,
    debug: bool = False,
) -> int:
    """Size, cost, reach and latency of every recipe in configs/, and of every model that no recipe has.

    Args:
        names: Only these recipes or models; files of settings elsewhere, too.
        num_classes: Words that the models tell apart; most published sizes are for 12.
        json: Also write the figures to this file.
        debug: Show the traceback of an error.
    """

    def run() -> int:
        if num_classes < 1:
            raise UsageError(f"--num_classes {num_classes} should be 1 or more")
        if json is not None and not json.parent.is_dir():
            raise UsageError(f"--json {json}: there is no folder {json.parent}")
        use_cores()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = model_table.recipes(_CONFIGS, names)
        with Console(stderr=True).status("measuring") as status:
            rows, wrong = model_table.measure_all(found, num_classes=num_classes, device=device, say=status.update)
        console = Console(highlight=False)
        model_table.show(rows, console, num_classes=num_classes, device=device)
        for name, error in wrong.items():
            console.print(f"{name}: {error}", style="red", soft_wrap=True, markup=False)
        if json is not None:
            json.write_text(jsonlib.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return 1 if wrong else 0

    return main_guard(run, debug)


def verify(run: tyro.conf.Positional[Path], debug: bool = False) -> int:
    """Read every checkpoint of a run, and say which are whole; exit code 1 if any is not.

    Args:
        run: Folder of the run; it may be in training.
        debug: Show the traceback of an error.
    """

    def check() -> int:
        kept = inventory.inventory(inventory.run_at(run))
        inventory.show(kept, Console())
        return 1 if any(one.problem for one in kept) else 0

    return main_guard(check, debug)


def prune(run: tyro.conf.Positional[Path], keep: int = 2, debug: bool = False) -> int:
    """Remove old and damaged step checkpoints of a run that is not in training; the best one stays.

    Args:
        run: Folder of the run.
        keep: How many of the newest whole ones stay, 2 or more.
        debug: Show the traceback of an error.
    """

    def remove() -> int:
        folder, console = inventory.run_at(run), Console(highlight=False)
        removed = inventory.prune(folder, keep)
        console.print(f"removed: {', '.join(path.name for path in removed) or 'nothing'}", soft_wrap=True, markup=False)
        kept = inventory.inventory(folder)
        inventory.show(kept, console)
        return 1 if any(one.problem for one in kept) else 0

    return main_guard(remove, debug)


def main() -> int:
    """Run the subcommand that the command line names."""
    return tyro.extras.subcommand_cli_from_dict(
        {"models": models, "verify": verify, "prune": prune},
        description=__doc__,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


if __name__ == "__main__":
    raise SystemExit(main())
