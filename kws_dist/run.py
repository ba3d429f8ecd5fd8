"""One run, one folder: its settings, its environment, its state and its result."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from kws_dist.config import Config, differences, load_file, to_yaml
from kws_dist.errors import DataError, UsageError
from kws_dist.files import write_whole
from kws_dist.run_lock import RunLock

Status = Literal["running", "stopped", "finished"]

_PACKAGES = ("kws_dist", "torch", "torchaudio", "accelerate", "numpy", "safetensors", "wandb")

# Settings that a resumed run may change: they alter neither the draws nor what is learnt from one.
_FREE = {"config", "run_dir", "resume", "dry_run", "debug", "data.shards", "data.residency"}
_FREE |= {"data.device_memory_share", "data.device_share", "data.cache_dir", "data.cache_gb"}
_FREE |= {"data.fetch_threads", "data.fetch_attempts", "features.preset"}
_FREE |= {"data.lanes", "data.window_shards"}  # where they matter the sampler's settings differ
_FREE |= {f"train.{name}" for name in ("epochs", "accumulate", "eval_every_epochs", "save_every_steps")}
_FREE |= {f"train.{name}" for name in ("log_every_steps", "max_bad_steps", "test_each_epoch", "patience_epochs")}
_FREE |= {f"train.{name}" for name in ("steps", "max_minutes", "eval_every_steps", "rollback_factor", "profile")}
_FREE |= {f"train.{name}" for name in ("job_minutes", "stop_grace_s")}
_FREE |= {"train.teacher"}  # wherever it lies now: that it is the same one, the checkpoint knows
_FREE |= {"train.bucket_mb", "train.cuda_graph", "train.compile"}  # the same arithmetic, to the last bits
_FREE |= {f"tracking.{name}" for name in ("wandb", "project", "tags", "notes", "worst_clips", "checkpoints")}
_FREE |= {"tracking.tensorboard", "tracking.draws"}


class RunFolder:
    """The files of a run. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.lock: RunLock | None = None
        """While the folder is open."""

    @contextmanager
    def open(self, note: Callable[[str], None] = print) -> Iterator[None]:
        """Make the folder and keep other jobs out of it while the context is open; `note` as in `RunLock`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--run_dir {self.path} cannot be made ({error.strerror}): choose another") from None
        with RunLock(self.path, note) as self.lock:
            try:
                yield
            finally:
                self.lock = None

    def check_ours(self) -> None:
        """Raise `DataError` if a later job has taken the folder over, as it may while this one was frozen."""
        if self.lock:
            self.lock.check()

    def status(self) -> Status | None:
        """Return how the last job here ended, or None if there was none."""
        return self._read("state.json").get("status")

    def step(self) -> int:
        """Return how far the last job here had got when it last saved."""
        return self._read("state.json").get("step", 0)

    def begin(self, config: Config) -> None:
        """Write down what is about to run, where."""
        write_whole(self.config_file, to_yaml(config).encode())
        self._write("env.json", environment())

    def set_state(self, status: Status, step: int, **more: Any) -> None:
        """Note how far the run is."""
        self._write(
            "state.json", {"status": status, "step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more}
        )

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures that the run is judged by."""
        self._write("result.json", result)

    def write_transfer(self, transfer: Mapping[str, Any]) -> None:
        """Write what the run took over from another, name by name."""
        self._write("init_from.json", transfer)

    def result(self) -> dict[str, Any]:
        """Return what `write_result` wrote, or nothing."""
        return self._read("result.json")

    def check_same_settings(self, config: Config) -> None:
        """Refuse to go on with other settings than the run began with."""
        if not self.config_file.exists():
            return
        changed = differences(load_file(self.config_file), config)
        changed = {name: values for name, values in changed.items() if name not in _FREE}
        if changed:
            listed = "; ".join(f"{name} was {was!r} and is now {now!r}" for name, (was, now) in changed.items())
            raise UsageError(
                f"--run_dir {self.path} holds a run with other settings ({listed}): go back to those,"
                " or choose another --run_dir"
            )

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self.check_ours()
        write_whole(self.path / name, (json.dumps(content, indent=1) + "\n").encode())

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_bytes())
            if isinstance(content, dict):
                return content
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            pass
        raise DataError(f"{self.path / name} is damaged: remove it to go on without it") from None


def environment() -> dict[str, Any]:
    """Return what one needs to know to run the same again: versions, commit, hardware, command."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": package_versions(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        answer = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # not a git checkout, or no git: the versions then say what ran
    return answer.stdout.strip()
