"""A real SLURM of two nodes in one machine, on loopback, in a folder of its own; nothing of it is left afterwards."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
from launching import ROOT

T = TypeVar("T")

DEADLINE_S = 120.0
NODES = ("n1", "n2")
_DAEMONS = ("munged", "slurmctld", "slurmd")
_LOOK_S = 0.2


def missing_programs() -> list[str]:
    """Return what would have to be installed: Debian's packages slurm-wlm and munge have it all."""
    return [name for name in (*_DAEMONS, "sbatch") if shutil.which(name, path=_path()) is None]


def _path() -> str:
    """Return where programs are: Python's, then a user's, then daemons."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


def wait_for(look: Callable[[], T], what: str | Callable[[], str], *, deadline_s: float = DEADLINE_S) -> T:
    """Look until there is something; otherwise the error says what did not come."""
    ends_s = time.monotonic() + deadline_s
    while not (seen := look()):
        if time.monotonic() > ends_s:
            raise TimeoutError(f"waited {deadline_s:.0f} s in vain for {what if isinstance(what, str) else what()}")
        time.sleep(_LOOK_S)
    return seen


class Cluster:
    """Two nodes of one processor each. `folder` takes configuration, state, keys and logs; its path is short."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**ours, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("spool", "state"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        (folder / "slurm.conf").write_text(_configuration(folder))

    def start(self) -> None:
        """Start all daemons and wait until both nodes take jobs."""
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        # --force: it does not like a socket in a folder that others cannot enter, which is all that is wanted here
        self._start("munged", "munged", "--foreground", "--force", *options)
        wait_for((self.folder / "munge.socket").exists, "munged")
        self._start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        log = self.folder / "slurmctld.log"
        wait_for(lambda: self.states() == ["idle", "idle"], lambda: f"two idle nodes: {log.read_text()}")

    def stop(self) -> None:
        """End every daemon and every job."""
        for name in ("slurmctld", *NODES, "munged"):  # the controller first: it would begin waiting jobs
            if daemon := self._daemons.pop(name, None):
                kill_with_children(daemon.pid)
                daemon.wait()
        for node in NODES:
            self._kill_steps(node)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, as when the node comes back."""
        cores = sorted(
            os.sched_getaffinity(0)
        )  # of which each node has one, so that none waits for the other's threads
        self._start(node, "slurmd", "-D", "-N", node, core=cores[NODES.index(node) % len(cores)])

    def kill_node(self, node: str) -> None:
        """End a node as a power cut does: its daemon and all that runs on it, at once and without a word."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        self._kill_steps(node)

    def _kill_steps(self, node: str) -> None:
        for process in self._step_daemons(node):  # which have left the family of their slurmd
            kill_with_children(process.pid)

    def _step_daemons(self, node: str) -> list[psutil.Process]:
        """Return what watches over the steps of jobs on a node; it is known by the log that it writes to."""
        found, log = [], str(self.folder / f"slurmd-{node}.log")
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.name() == "slurmstepd" and any(file.path == log for file in process.open_files()):
                    found.append(process)
        return found

    def _start(self, name: str, *command: str, core: int | None = None) -> None:
        def stay_there() -> None:
            if core is not None:
                os.sched_setaffinity(0, [core])

        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=stay_there,
            )

    def command(self, *command: str | Path) -> str:
        """Run one of SLURM's commands, or one that calls them, in the repository; returns what it says."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def states(self) -> list[str]:
        """Return the state of each node."""
        return self.command("sinfo", "--Node", "--noheader", "--partition=main", "--format=%t").split()

    def jobs(self) -> list[str]:
        """Return the numbers of the jobs that wait or run."""
        return self.command("squeue", "--noheader", "--format=%A").split()


def kill_with_children(number: int) -> None:
    """End a process and all that came from it, at once."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(number)
        for process in [*family.children(recursive=True), family]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens at now."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in with_sockets]
    for each in with_sockets:
        each.close()
    return ports


def _configuration(folder: Path) -> str:
    host = socket.gethostname().partition(".")[0]
    controller, *daemons = _free_ports(1 + len(NODES))
    lines = [
        "ClusterName=kws",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        f"SlurmUser={getpass.getuser()}",
        f"SlurmdUser={getpass.getuser()}",
        "AuthType=auth/munge",
        # a requeued job waits until its last credential has run out
        f"AuthInfo=socket={folder}/munge.socket,cred_expire=5",
        "CredType=cred/munge",
        "MpiDefault=none",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1",
        "SlurmdParameters=config_overrides",  # also where there is only one processor
        "JobRequeue=1",
        "ReturnToService=2",
        "SlurmdTimeout=6",
        "KillWait=30",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log",
        f"SlurmdLogFile={folder}/slurmd-%n.log",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=40",
        "PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF",
    ]
    for node, port in zip(NODES, daemons, strict=True):
        lines.insert(0, f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1")
    return "\n".join(lines) + "\n"
