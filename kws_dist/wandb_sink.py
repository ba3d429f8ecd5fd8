"""The trainer's end of the mirror to Weights & Biases (W&B), whose client is a process of its own."""

import os
import secrets
import select
import shlex
import string
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws_dist.config import TrackingConfig
from kws_dist.files import write_whole
from kws_dist.metrics_file import to_json
from kws_dist.sink import HeardClip, Record, Sink
from kws_dist.wandb_mirror import TOLD
from kws_dist.wandb_outbox import leave


class Wandb(Sink):
    """A mirror to W&B that can neither stop nor delay training, nor ask or write anything on its terminal.

    The W&B client lives in a child process (`kws_dist.wandb_mirror`) that does the waiting for the network.
    Records go to it through a pipe that never blocks; what does not fit stays in memory until there is room.
    """

    BACKLOG_LIMIT_BYTES = 64 << 20  # some 200,000 records: a client that far behind will not come back

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingConfig,
        *,
        config: dict[str, Any],
        warn: Callable[[str], None],
        start_step: int = 0,
        init_timeout_s: float = 20.0,
        finish_timeout_s: float = 30.0,
    ) -> None:
        self._warn = warn
        self._finish_timeout_s = finish_timeout_s
        self._folder = run_dir / "wandb"
        self._outbox = self._folder / "outbox"
        folder = shlex.quote(str(self._folder))
        self._sync_all = f"wandb sync --include-online {folder}/*run-*"
        self._backlog = bytearray()
        self._heard = b""
        self._child = None if tracking.wandb == "disabled" else self._start()
        self._send(
            {
                "run_dir": run_dir.resolve(),
                "mode": tracking.wandb,
                "project": tracking.project,
                "tags": tracking.tags,
                "notes": tracking.notes,
                "name": run_dir.resolve().name,
                "id": wandb_id(run_dir) if self._child else "",
                "config": config,
                "start_step": start_step,
                "outbox": self._outbox.resolve(),
                "init_timeout_s": init_timeout_s,
                "finish_timeout_s": finish_timeout_s * 0.7,  # so that it gives up before it is made to
                "sync_offline": f"wandb sync {folder}/offline-run-*",
                "sync_all": self._sync_all,
                "trainer_pid": os.getpid(),
            }
        )

    def log(self, record: Record) -> None:
        """Mirror the record on the step that it names."""
        self._send({"record": record})

    def log_image(self, name: str, path: Path) -> None:
        """Mirror a picture on the step of the last record."""
        self._send({"image": name, "path": path.resolve()})

    def log_confusion(self, name: str, words: Sequence[str], matrix: NDArray[np.integer]) -> None:
        """Mirror counts of answers `(C, C)`, shown as a confusion matrix."""
        self._send({"confusion": name, "words": words, "matrix": matrix.tolist()})

    def log_clips(self, name: str, clips: Sequence[HeardClip]) -> None:
        """Mirror clips as a table with their sound; the files have to stay until the end of the run."""
        self._send({"clips": name, "rows": [{**asdict(clip), "path": clip.path.resolve()} for clip in clips]})

    def log_checkpoint(self, path: Path, aliases: Sequence[str]) -> None:
        """Mirror a checkpoint as an artifact; a copy of it waits for the client where nobody prunes."""
        if not self._child:
            return
        try:
            leave(path, aliases, self._outbox)
        except OSError as error:
            self._warn(f"W&B does not get the checkpoint {path.name}: it cannot be copied to {self._outbox} ({error}).")
            return
        self._send({"checkpoint": path.name})

    def rewind(self, step: int) -> None:
        """Go on from an earlier step; W&B keeps what came after it."""
        self._send({"rewind": step})

    def finish(self, exit_code: int, summary: Record) -> None:
        """Hand over what is left and wait for the upload, at most `finish_timeout_s`."""
        deadline_s = time.monotonic() + self._finish_timeout_s
        self._send({"exit_code": exit_code, "summary": summary})
        while self._child and self._backlog and time.monotonic() < deadline_s:
            assert self._child.stdin
            select.select([], [self._child.stdin], [], 0.1)
            self._push()
        if not self._child:
            return
        assert self._child.stdin
        self._child.stdin.close()
        try:
            self._child.wait(max(0.0, deadline_s - time.monotonic()))
            self._stop()
        except subprocess.TimeoutExpired:
            limit = f"{self._finish_timeout_s:.0f} s"
            self._stop(f"W&B did not finish within {limit}; upload the rest with `{self._sync_all}`.")

    def _start(self) -> "subprocess.Popen[bytes] | None":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "client.log").open("ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "kws_dist.wandb_mirror"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={
                        # Its own telemetry would hold up the end for another 10 s when the network hangs.
                        "WANDB_ERROR_REPORTING": "false",
                        # Copies of what is to be uploaded, which a home folder may have no room for.
                        "WANDB_DATA_DIR": str(self._folder.resolve() / "data"),
                        **os.environ,
                    },
                    start_new_session=True,  # Ctrl-C is for the trainer, which then finishes W&B in order
                )
        except OSError as error:
            self._warn(f"W&B is off, because its client does not start: {error}.")
            return None
        assert child.stdin
        assert child.stdout
        os.set_blocking(child.stdin.fileno(), False)
        os.set_blocking(child.stdout.fileno(), False)
        return child

    def _send(self, message: dict[str, Any]) -> None:
        if self._child:
            self._backlog += to_json(message).encode() + b"\n"
            self._push()

    def _push(self) -> None:
        """Write what the pipe takes, and pass on what the client has to say."""
        assert self._child
        assert self._child.stdin
        try:
            written = os.write(self._child.stdin.fileno(), self._backlog)
            del self._backlog[:written]
        except BlockingIOError:
            if len(self._backlog) > self.BACKLOG_LIMIT_BYTES:
                self._stop("W&B is off: its client has stopped taking records.")
                return
        except BrokenPipeError:
            self._stop()
            return
        self._pass_on(self._child)

    def _pass_on(self, child: "subprocess.Popen[bytes]") -> None:
        """Warn with every whole line that the client has written."""
        assert child.stdout
        while chunk := child.stdout.read():
            self._heard += chunk
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            self._warn(line.decode(errors="replace"))

    def _stop(self, reason: str = "") -> None:
        """Let go of the client; `reason` says why, where it is not at its end by itself."""
        assert self._child
        child, self._child = self._child, None
        with child:  # closes the pipes
            if reason:
                child.kill()
            try:
                status = child.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                child.kill()
                status = child.wait()
            self._pass_on(child)
        if not reason and status not in (0, TOLD):
            reason = f"W&B is off, because its client ended early; see {self._folder / 'client.log'}."
        if reason:
            self._warn(reason)


def wandb_id(run_dir: Path) -> str:
    """Return the W&B id of the run, kept in `wandb_id` from the first call on, so that a resume finds its run."""
    path = run_dir / "wandb_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        letters = string.ascii_lowercase + string.digits
        of_sweep = os.environ.get("WANDB_RUN_ID")  # given by the agent of a W&B sweep, which waits for this run
        write_whole(path, (of_sweep or "".join(secrets.choice(letters) for _ in range(8))).encode())
    return path.read_text().strip()
