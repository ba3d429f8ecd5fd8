"""The child process that holds the Weights & Biases (W&B) client: `python -m kws_dist.wandb_mirror`.

It reads messages from its parent, one JSON object per line on stdin (see `tracking.Wandb`, which writes them):
first the settings of the run, then records and pictures, at last the end of the run. When stdin ends without
that, the trainer was killed, and the run is closed as failed. What it prints on stdout are sentences for the
user; all that the client prints goes to stderr, which is a file in the run folder.
"""

import contextlib
import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]
Say = Callable[[str], None]

TOLD = 3
"""The exit status of a mirror that failed and has said why."""


def mirror(messages: Iterator[Message], say: Say) -> int:
    """Feed one run from the messages and return 0, or `TOLD`."""
    settings = next(messages)
    try:
        run = _open_run(settings, say)
        _feed(run, messages)
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
        id=settings["id"],
        resume="allow",
        config=settings["config"],
        settings=wandb.Settings(**known),
    )
    run.define_metric("clips_seen")
    run.define_metric("*", step_metric="clips_seen")
    return run


def _feed(run: Any, messages: Iterator[Message]) -> None:
    import wandb

    step, exit_code = 0, 1
    for message in messages:
        if "record" in message:
            record = {name: math.nan if value is None else value for name, value in message["record"].items()}
            step = record["step"]
            run.log(record, step=step)
        elif "image" in message:
            run.log({message["image"]: wandb.Image(message["path"])}, step=step)
        else:
            exit_code = message["exit_code"]
            run.summary.update(message["summary"])
    run.finish(exit_code=exit_code)


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
