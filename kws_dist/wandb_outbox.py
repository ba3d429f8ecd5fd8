"""Checkpoints on their way to Weights & Biases (W&B): folders that the trainer leaves and W&B's process takes.

The trainer prunes and replaces its checkpoints, and W&B comes to read them whenever it does. So each waits in a folder
of its own, whose files are links to the checkpoint's, where it stays as it is. Nothing is sent twice, and of what waits
a newer checkpoint with the same aliases takes the place: a W&B that hangs fills no disk.
"""

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def leave(checkpoint: Path, aliases: Sequence[str], outbox: Path) -> None:
    """Have a checkpoint wait in `outbox`; raises `OSError` where there is no room for it."""
    draft, newest = outbox / "draft", outbox / f"{time.time_ns()}.{'.'.join(aliases)}"
    shutil.rmtree(draft, ignore_errors=True)
    outbox.mkdir(parents=True, exist_ok=True)
    shutil.copytree(checkpoint, draft, copy_function=_link)
    draft.rename(newest)
    for older in waiting(outbox):
        if older.name < newest.name and set(aliases_of(older)) <= set(aliases):
            with suppress(FileNotFoundError):
                take(older, outbox / "void")
    shutil.rmtree(outbox / "void", ignore_errors=True)


def waiting(outbox: Path) -> list[Path]:
    """Return the folders that wait, the oldest first."""
    return sorted(outbox.glob("[0-9]*.*"))


def aliases_of(folder: Path) -> list[str]:
    """Return what a checkpoint that waits is to be called."""
    return folder.name.split(".")[1:]


def take(folder: Path, to: Path) -> None:
    """Move a folder that waits, in place of what is at `to`; `FileNotFoundError` if the other process took it."""
    shutil.rmtree(to, ignore_errors=True)
    folder.rename(to)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copy2(source, target)
