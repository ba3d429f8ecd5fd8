"""The child process that holds the Weights & Biases (W&B) client: `python -m kws_dist.wandb_mirror`.

It reads messages from its parent, one JSON object per line on stdin (see `wandb_sink.Wandb`, which writes them):
first the settings of the run, then records, pictures, tables and checkpoints, at last the end of the run. When stdin
ends without that, the trainer was killed, and the run is closed as failed. What it prints on stdout are sentences for
the user; all that the client prints goes to stderr, which is a file in the run folder.
"""

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kws_dist.wandb_outbox import aliases_of, take, waiting

Message = dict[str, Any]
Say = Callable[[str], None]

TOLD = 3
"""The exit status of a mirror that failed and has said why."""


def mirror(messages: Iterator[Message], say: Say) -> int:
    """Feed one run from the messages and return 0, or `TOLD`."""
    settings = next(messages)
    try:
        run = _open_run(settings, say)
        _feed(run, messages, settings, say)
    except TimeoutError:
        say(f"W&B did not take everything in time; upload the rest with `{settings['sync_all']}`.")
        return TOLD
    # A tracker must not end a training, and the client raises errors of many kinds, its own and the network's.
    except Exception as error:  # noqa: BLE001
        say(f"W&B is off from here on ({_brief(error)}); metrics.jsonl goes on.")
        return TOLD
    return 0


def _open_run(settings: Message, say: Say) -> Any:
    """Open the run, offline when it cannot be opened online."""
    import wandb
    from wandb.errors import AuthenticationError, UsageError

    if settings["mode"] == "online":
        try:
            return _init(settings, "online")
        # Whatever it is, a run that is recorded offline can still be uploaded.
        except Exception as error:  # noqa: BLE001
            logged_out = isinstance(error, UsageError | AuthenticationError)
            cause = "W&B is not logged in (`wandb login` does that)" if logged_out else "W&B cannot be reached"
            say(
                f"{cause}, so this run is recorded offline; upload it later with `{settings['sync_offline']}` "
                f"({_brief(error)})."
            )
        wandb.teardown()  # the failed attempt would hold on to the run id
    return _init(settings, "offline")


def _init(settings: Message, mode: str) -> Any:
    import wandb

    wanted = {
        "silent": True,
        "console": "off",
        "init_timeout": settings["init_timeout_s"],
        "finish_timeout": settings["finish_timeout_s"],
        "finish_timeout_raises": True,
        "x_stats_pid": settings["trainer_pid"],
    }
    known = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    run = wandb.init(
        mode=mode,  # pyright: ignore[reportArgumentType]
        dir=settings["run_dir"],
        project=settings["project"],
        name=settings["name"],
        tags=settings["tags"] or None,  # None, as below, leaves it to the environment
        notes=settings["notes"] or None,
        id=settings["id"],
        resume="allow",
        config=settings["config"],
        settings=wandb.Settings(**known),
    )
    run.define_metric("clips_seen")
    run.define_metric("*", step_metric="clips_seen")
    return run


def _feed(run: Any, messages: Iterator[Message], settings: Message, say: Say) -> None:
    step, ahead, exit_code = settings["start_step"], 0, 1
    checkpoints = Checkpoints(run, Path(settings["outbox"]), say)
    for message in messages:
        if "record" in message:
            record = {name: math.nan if value is None else value for name, value in message["record"].items()}
            step = message["record"]["step"] + ahead
            run.log(record, step=step)
        elif "rewind" in message:
            ahead = step - message["rewind"]  # W&B's own steps only ever rise, and what is below them is dropped
        elif "exit_code" in message:
            exit_code = message["exit_code"]
            run.summary.update(message["summary"])
        elif "checkpoint" not in message:
            _show(run, message, step, say)
        checkpoints.send_next()
    checkpoints.send_all()
    run.finish(exit_code=exit_code)


def _show(run: Any, message: Message, step: int, say: Say) -> None:
    """Log what is to be looked at; where it cannot be, the numbers still are."""
    kind = next(kind for kind in _SHOWN if kind in message)
    try:
        run.log({message[kind]: _SHOWN[kind](message)}, step=step)
    # A file that is gone, or whatever the client finds wrong with it.
    except Exception as error:  # noqa: BLE001
        say(f"W&B does not get {message[kind]} ({_brief(error)}).")


def _image(message: Message) -> Any:
    import wandb

    return wandb.Image(message["path"])


def _confusion(message: Message) -> Any:
    """Return the chart of `wandb.plot.confusion_matrix`, which would count the answers itself."""
    import wandb

    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    words = message["words"]
    cells = [
        [word, heard, count]
        for word, counts in zip(words, message["matrix"], strict=True)
        for heard, count in zip(words, counts, strict=True)
    ]
    table = wandb.Table(columns=columns, data=cells)
    fields = {str(column): str(column) for column in columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": message["confusion"]})


def _clips(message: Message) -> Any:
    import wandb

    columns = ["key", "word", "heard", "probability", "loss"]
    rows = [[*(row[column] for column in columns), wandb.Audio(row["path"])] for row in message["rows"]]
    return wandb.Table(columns=[*columns, "sound"], data=rows)


_SHOWN: dict[str, Callable[[Message], Any]] = {"image": _image, "confusion": _confusion, "clips": _clips}


class Checkpoints:
    """Sends checkpoints as versions of one artifact: one at a time, and offline only the last ones, at the end."""

    def __init__(self, run: Any, outbox: Path, say: Say) -> None:
        self._run, self._outbox, self._say = run, outbox, say
        self._uploading: list[Path] = []

    def send_next(self) -> None:
        """Send the oldest one that waits, unless the one before is still on its way."""
        # W&B removes its copies when it is done. Its artifact could be asked as well, but asking gives the upload up.
        if not self._run.offline and not any(path.exists() for path in self._uploading):
            self._send(waiting(self._outbox)[:1])

    def send_all(self) -> None:
        """Send all that wait."""
        self._send(waiting(self._outbox))

    def _send(self, folders: list[Path]) -> None:
        for folder in folders:
            mine = self._outbox / "sending"
            try:
                take(folder, mine)
            except FileNotFoundError:
                continue  # a newer one is on its way
            try:
                self._uploading = self._log(mine, aliases_of(folder))
            except Exception as error:  # noqa: BLE001 -- as for what is shown
                self._say(f"W&B does not get a checkpoint ({_brief(error)}).")
            shutil.rmtree(mine, ignore_errors=True)

    def _log(self, folder: Path, aliases: list[str]) -> list[Path]:
        """Hand a checkpoint over and return W&B's copies of its files."""
        import wandb

        step = json.loads((folder / "state.json").read_bytes())["step"]
        artifact = wandb.Artifact(f"{self._run.id}-checkpoint", type="model", metadata={"step": step})
        artifact.add_dir(str(folder), skip_cache=True)
        self._run.log_artifact(artifact, aliases=aliases)
        return [Path(entry.local_path) for entry in artifact.manifest.entries.values() if entry.local_path]


def _brief(error: Exception) -> str:
    """Return the first line of what the error says, or its kind."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def main() -> None:
    """Serve the parent until it closes our stdin."""
    # A stop signal to the whole job is the trainer's to handle; it then ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    user = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the client or its helpers print

    def say(text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it
            print(text, file=user, flush=True)

    whole_lines = itertools.takewhile(lambda line: line.endswith("\n"), sys.stdin)
    status = mirror(map(json.loads, whole_lines), say)
    if status:
        os._exit(status)  # without the client's exit hook, which would try again for as long as it takes


if __name__ == "__main__":
    main()
