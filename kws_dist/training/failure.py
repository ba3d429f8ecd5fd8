"""When one rank ends, all end: within seconds, and with the error of the one that failed first.

A rank that is left alone waits in a collective, for minutes until that times out; meanwhile no signal handler of Python
runs in it. So a thread of each rank looks twice a second at the store through which the ranks met, whether
one has failed, and at the processes of the same machine, whether one is gone without a word (killed, out of memory).
"""

import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

from accelerate import Accelerator
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from kws_dist.errors import exit_code, is_for_people, sentence, show

_LOOK_S = 0.5
_GRACE_S = 2.0
"""How long a main thread may take to end by itself, and how long an error may wait for a better explanation."""
_ORPHAN_GRACE_S = 10.0
"""The same when the launcher is gone: the ranks may still reach each other, and save before they end."""
_HEAD_START_S = 0.5
"""The launcher calls the process that it sees end first, looking each 0.1 s, the cause."""
_FAILURE, _CLAIMS = "failure", "claims"  # keys of the store
_SHOW_CURSOR = "\x1b[?25h\n"  # a live display, left in the middle, had hidden it


@dataclass(frozen=True)
class Failure:
    """Why the job ends."""

    reason: str
    """What happened to which rank."""
    said: str
    """The sentence that has been printed already; other ranks do not repeat it."""
    exit_code: int


@contextmanager
def shared_fate(accelerator: Accelerator, *, debug: bool) -> Iterator[None]:
    """End in good order together after the block, or end all ranks as soon as one fails in it.

    An error is printed by the rank that met it, and once where all meet the same; the others say in one line
    whose error ends them. `debug` shows tracebacks, as in `errors.main_guard`. One process alone raises as ever.
    """
    if accelerator.num_processes == 1:
        yield
        accelerator.end_training()
        return
    watcher = _Watcher(_meeting_place(), accelerator.process_index)
    watcher.start()
    try:
        yield
        accelerator.wait_for_everyone()  # the rank that hosts the store must not leave first
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- whatever it is, it ends this rank, and so all
        watcher.end_with(error, debug=debug)
    watcher.close()
    accelerator.free_memory()  # a DDP that is let go after its process group may wait for it for ever (ddp_bench.py)
    accelerator.end_training()


def _meeting_place() -> Store:
    """Return a connection of our own to the store through which the ranks found each other.

    Of one connection, only one thread at a time can ask, and the process group's may wait for minutes.
    """
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)
    return PrefixStore(f"shared_fate/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


class _Watcher(threading.Thread):
    """Learns of another rank's end, and ends this process if the main thread does not."""

    def __init__(self, store: Store, rank: int) -> None:
        super().__init__(name="shared_fate", daemon=True)
        self._store, self._rank, self._failure = store, rank, None
        self._heard, self._ending, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._neighbours = _Neighbours(store, rank)

    def run(self) -> None:
        """Look until something has happened."""
        grace_s = _GRACE_S
        try:
            while self._failure is None and not self._closing.is_set():
                gone = self._neighbours.gone()
                if self._store.check([_FAILURE]):
                    self._failure = Failure(**json.loads(self._store.get(_FAILURE)))
                elif gone:
                    self._tell(Failure(f"{gone} is gone without a word: it was killed, or memory ran out", "", 1))
        except RuntimeError:  # the store does not answer
            place = os.environ["MASTER_ADDR"]
            self._failure = Failure(f"the process on {place} that holds the ranks together is gone", "", 1)
            grace_s = _ORPHAN_GRACE_S
        if self._failure is None:
            return
        self._heard.set()
        if not self._ending.wait(grace_s):
            self._follow(self._failure)

    def close(self) -> None:
        """Stop looking: all ranks have come to the end."""
        self._closing.set()
        self._ending.set()
        self.join()  # a thread that is still in the store's code when Python ends would abort the process
        with suppress(RuntimeError):  # the host of the store may be gone already, and then nobody looks
            self._store.set(f"done/{self._rank}", "")

    def end_with(self, error: BaseException, *, debug: bool) -> NoReturn:
        """End this process by an error of its main thread, which may be the cause of all or follow from another's."""
        own = is_for_people(error)
        if not own:  # such as a connection that the end of another rank has closed
            self._heard.wait(_GRACE_S)
        self._ending.set()
        if not self._is_first() and self._heard.wait(_GRACE_S):
            assert self._failure is not None
            if not own and not debug:
                self._follow(self._failure)
            if sentence(error) != self._failure.said:
                show(error, debug=debug)
        else:
            show(error, debug=debug)
            reason = f"rank {self._rank} ended with an error: {sentence(error)}"
            self._tell(Failure(reason, sentence(error), exit_code(error)))
        _leave(exit_code(error))

    def _is_first(self) -> bool:
        """Whether no other rank has failed before; it counts as told once the failure has been printed."""
        if self._heard.is_set():
            return False
        try:
            return self._store.add(_CLAIMS, 1) == 1
        except RuntimeError:
            return True

    def _tell(self, failure: Failure) -> None:
        with suppress(RuntimeError):
            self._store.set(_FAILURE, json.dumps(asdict(failure)))

    def _follow(self, failure: Failure) -> NoReturn:
        cursor = _SHOW_CURSOR if sys.stdout.isatty() else ""
        # Not sys.stderr, which a live display takes over: its lock may be held by what does not go on.
        print(f"{cursor}rank {self._rank} ends because {failure.reason}", file=sys.__stderr__, flush=True)
        time.sleep(_HEAD_START_S)
        _leave(failure.exit_code)


class _Neighbours:
    """The other ranks' processes on this machine."""

    def __init__(self, store: Store, rank: int) -> None:
        first = rank - int(os.environ.get("LOCAL_RANK", "0"))
        ranks = range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self._store = store
        self._unknown = [other for other in ranks if other != rank]
        self._watched: dict[int, tuple[int, int]] = {}  # descriptor to rank and process
        self._poll = select.poll()
        store.set(f"process/{rank}", str(os.getpid()))

    def gone(self) -> str:
        """Wait for a moment; return what to call a process that has ended meanwhile without being done."""
        ended = [self._watch(rank) for rank in self._unknown if self._store.check([f"process/{rank}"])]
        for descriptor, _ in self._poll.poll(1000 * _LOOK_S):
            self._poll.unregister(descriptor)
            os.close(descriptor)
            ended.append(self._watched[descriptor])
        for rank, process in filter(None, ended):
            if not self._store.check([f"done/{rank}"]):
                return f"rank {rank} (process {process} on {socket.gethostname()})"
        return ""

    def _watch(self, rank: int) -> tuple[int, int] | None:
        """Watch the process of a rank; returned instead if it has ended already."""
        self._unknown = [other for other in self._unknown if other != rank]
        process = int(self._store.get(f"process/{rank}"))
        if sys.platform != "linux":
            return None
        try:  # unlike the number of a process, its descriptor tells when it ends, and will never mean another one
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            return rank, process
        self._watched[descriptor] = rank, process
        self._poll.register(descriptor, select.POLLIN)
        return None


def _leave(code: int) -> NoReturn:
    """End at once: what tears down a broken process group may wait for ever, or abort."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
