"""The cache: what it hands out is whole, its limit is never passed, and it survives whatever happens to it."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_server import Answer, HostileServer, bytes_in, serving

from kws_dist.data.cache_folder import CacheFolder, locked
from kws_dist.data.fetch import Remote
from kws_dist.data.received import Patience
from kws_dist.data.shard_cache import ShardCache
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.meta import ShardEntry

SHARD_BYTES = 20_000
QUICK = Patience(connect_s=10.0, stall_s=10.0, attempts=4, first_wait_s=0.001)
ROOMY = 1 << 30


def content(number: int) -> bytes:
    """The bytes of a shard; random, and of one size."""
    return hashlib.shake_128(bytes([number])).digest(SHARD_BYTES)


NAMES = [f"train-{number:06d}.tar" for number in range(8)]
FILES = {name: content(number) for number, name in enumerate(NAMES)}
ENTRIES = [
    ShardEntry(
        name=name, split="train", clips=1, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), index_sha256=""
    )
    for name, data in FILES.items()
]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving(FILES) as server:
        yield server


def root(folder: Path) -> Path:
    return CacheFolder(folder, 0).of_dataset("0" * 64)


def opened(
    folder: Path, url: str, limit_bytes: int = ROOMY, patience: Patience = QUICK, sharers: int = 1
) -> ShardCache:
    """Open the cache as another process would: nothing is shared with one opened before but the folder."""
    return ShardCache(Remote(url, patience), CacheFolder(folder, limit_bytes), root(folder), ENTRIES, sharers=sharers)


def held(cache: ShardCache, name: str) -> bytes:
    return cache.get(name).read_bytes()


def there(folder: Path) -> list[str]:
    return sorted(path.name for path in root(folder).iterdir())


def size_bytes(folder: Path) -> int:
    """Of all files, temporary ones included, at one moment: one file may come when another one has gone."""
    with locked(folder):
        return bytes_in(root(folder))


def test_a_shard_is_fetched_once_and_then_there_for_any_process(tmp_path: Path, server: HostileServer) -> None:
    cache = opened(tmp_path, server.url)
    for _ in range(2):
        assert held(cache, NAMES[0]) == FILES[NAMES[0]]
        cache.release(NAMES[0])
    assert held(opened(tmp_path, server.url), NAMES[0]) == FILES[NAMES[0]]
    assert len(server.requests) == 1


def test_wrong_bytes_never_get_the_name_of_a_shard(tmp_path: Path, server: HostileServer) -> None:
    def final_is_not_there(name: str) -> None:
        assert name not in there(tmp_path)

    server.on_request = final_is_not_there
    lie = Answer(change=lambda data: data[::-1])
    server.answers[NAMES[0]] = [lie, lie]
    assert held(opened(tmp_path, server.url), NAMES[0]) == FILES[NAMES[0]]
    server.otherwise = lie
    with pytest.raises(DataError, match=rf"{NAMES[1]}: given up after 4 attempts .*wrong bytes come"):
        opened(tmp_path, server.url).get(NAMES[1])
    assert there(tmp_path) == [NAMES[0]]
    assert len(server.asked(NAMES[0])) == 3


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(SHARD_BYTES)),  # as a power cut leaves a file that was not yet on disk
        lambda path: path.unlink(),
    ],
)
def test_what_happened_to_a_shard_while_nobody_used_it_is_seen_and_mended(
    tmp_path: Path, server: HostileServer, damage
) -> None:
    """By another process, and by the one that fetched it."""
    first = opened(tmp_path, server.url)
    for cache in (opened(tmp_path, server.url), first):
        first.get(NAMES[0])
        first.release(NAMES[0])
        damage(root(tmp_path) / NAMES[0])
        server.requests.clear()
        assert held(cache, NAMES[0]) == FILES[NAMES[0]]
        assert len(server.requests) == 1
        cache.release(NAMES[0])
        assert there(tmp_path) == [NAMES[0]]


def test_what_happened_to_a_shard_while_it_was_used_is_seen_at_the_next_use(
    tmp_path: Path, server: HostileServer
) -> None:
    cache = opened(tmp_path, server.url)
    flip_a_bit(cache.get(NAMES[0]))
    cache.release(NAMES[0])
    assert held(cache, NAMES[0]) == FILES[NAMES[0]]


def test_what_is_not_used_goes_first_and_what_is_used_never(tmp_path: Path, server: HostileServer) -> None:
    cache = opened(tmp_path, server.url, limit_bytes=3 * SHARD_BYTES)
    for name in NAMES[:3]:
        cache.get(name)
    for name in (NAMES[1], NAMES[0]):
        cache.release(name)
    cache.get(NAMES[3])
    assert there(tmp_path) == [NAMES[0], NAMES[2], NAMES[3]]
    cache.get(NAMES[4])
    assert there(tmp_path) == [NAMES[2], NAMES[3], NAMES[4]]
    with pytest.raises(UsageError, match=r"--data\.cache_gb 6e-05 is too small: 8e-05 are needed at once; raise it"):
        cache.get(NAMES[5])
    assert there(tmp_path) == [NAMES[2], NAMES[3], NAMES[4]]
    assert len(server.asked(NAMES[5])) == 0


def test_what_another_process_uses_is_not_taken_away(tmp_path: Path, server: HostileServer) -> None:
    other = opened(tmp_path, server.url)
    other.get(NAMES[0])
    cache = opened(tmp_path, server.url, limit_bytes=2 * SHARD_BYTES, patience=Patience(stall_s=0.1))
    for name in (NAMES[1], NAMES[2]):
        cache.get(name)
        cache.release(name)
    assert there(tmp_path) == [NAMES[0], NAMES[2]]
    cache.get(NAMES[2])
    with pytest.raises(UsageError, match=r"--data\.cache_gb"):
        cache.get(NAMES[3])
    other.close()
    assert held(cache, NAMES[3]) == FILES[NAMES[3]]


def test_room_that_others_take_is_waited_for(tmp_path: Path, server: HostileServer) -> None:
    other = opened(tmp_path, server.url)
    other.get(NAMES[0])

    class WhileOneWaits(Remote):
        def pause(self, wait_s: float) -> None:
            other.release(NAMES[0])
            super().pause(wait_s)

    folder = CacheFolder(tmp_path, SHARD_BYTES)
    cache = ShardCache(WhileOneWaits(server.url), folder, root(tmp_path), ENTRIES)
    assert held(cache, NAMES[1]) == FILES[NAMES[1]]
    assert there(tmp_path) == [NAMES[1]]


def test_what_will_be_used_next_is_kept_and_the_limit_decides_how_much_that_is(
    tmp_path: Path, server: HostileServer
) -> None:
    cache = opened(tmp_path, server.url, limit_bytes=4 * SHARD_BYTES)
    for name in NAMES[:4]:
        cache.get(name)
        cache.release(name)
    assert cache.within_limit([NAMES[4]], [NAMES[0], NAMES[4], NAMES[1], NAMES[5], NAMES[6]]) == [
        NAMES[4], NAMES[0], NAMES[1], NAMES[5],
    ]  # fmt: skip
    cache.get(NAMES[4])
    assert there(tmp_path) == [NAMES[0], NAMES[1], NAMES[3], NAMES[4]]
    half = opened(tmp_path, server.url, limit_bytes=4 * SHARD_BYTES, sharers=2)
    assert half.within_limit(NAMES[:1], NAMES[1:]) == NAMES[:2]
    with pytest.raises(
        UsageError, match=r"cache_gb 8e-05 is too small: the 3 shards .*6e-05 GB on each of 2.*0\.00012"
    ):
        half.within_limit(NAMES[:3], [])


def test_shards_that_are_held_whole_take_from_the_room_of_the_others(tmp_path: Path, server: HostileServer) -> None:
    cache = opened(tmp_path, server.url, limit_bytes=4 * SHARD_BYTES)
    cache.hold(NAMES[:2])
    assert there(tmp_path) == NAMES[:2]
    assert cache.within_limit([], NAMES[2:]) == NAMES[2:4]
    cache.let_go(NAMES[:2])
    assert cache.within_limit([], NAMES[2:]) == NAMES[2:6]


def test_files_of_others_in_the_folder_are_neither_counted_nor_removed(tmp_path: Path, server: HostileServer) -> None:
    for folder in (tmp_path, tmp_path / "my shards"):
        folder.mkdir(exist_ok=True)
        (folder / NAMES[0]).write_bytes(b"mine" * 100_000)
    cache = opened(tmp_path, server.url, limit_bytes=SHARD_BYTES)
    for name in NAMES[:3]:
        cache.get(name)
        cache.release(name)
    assert (tmp_path / NAMES[0]).stat().st_size == (tmp_path / "my shards" / NAMES[0]).stat().st_size == 400_000


def test_the_limit_is_never_passed_while_many_fetch_from_a_bad_server(tmp_path: Path, server: HostileServer) -> None:
    """Measured whenever the server is asked, and all the time by a thread."""
    limit_bytes, seen, done = 4 * SHARD_BYTES, [], threading.Event()
    server.on_request = lambda _: seen.append(size_bytes(tmp_path))
    for name in NAMES:
        server.answers[name] = [Answer(cut_bytes=5000), Answer(status=500), Answer(change=lambda data: data[::-1])]
    cache = opened(tmp_path, server.url, limit_bytes)
    (root(tmp_path) / f"{NAMES[0]}.tmp").write_bytes(bytes(SHARD_BYTES))  # of a process that was killed

    def use(name: str) -> bool:
        path = cache.get(name)
        is_right = path.read_bytes() == FILES[name]
        cache.release(name)
        return is_right

    def watch() -> None:
        while not done.is_set():
            seen.append(size_bytes(tmp_path))

    with ThreadPoolExecutor(4) as pool:
        watching = pool.submit(watch)
        assert all(pool.map(use, NAMES))
        done.set()
        watching.result()
    assert max(seen) == limit_bytes
    assert not [name for name in there(tmp_path) if name.endswith(".tmp")]


OPEN = """
import sys
from pathlib import Path
from test_shard_cache import held, opened
folder, url, limit_bytes, *names = sys.argv[1:]
cache = opened(Path(folder), url, int(limit_bytes))
"""
GET = """
for name in names:
    held(cache, name)
    cache.release(name)
"""
BEGIN_AND_END = """
from kws_dist.data.ahead import Ahead
Ahead(lambda number: cache.get(names[number]), 2).want(range(len(names)))
sys.stdin.readline()
"""


def another_process(
    folder: Path, server: HostileServer, names: list[str], limit_bytes: int = ROOMY, code: str = GET
) -> "subprocess.Popen[str]":
    """Do with the cache in another process what `code` says."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", OPEN + code, str(folder), server.url, str(limit_bytes), *names]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdin=subprocess.PIPE, text=True)


@pytest.mark.parametrize("cut_bytes", [0, 1, SHARD_BYTES // 2, SHARD_BYTES - 1])
def test_what_a_killed_process_leaves_is_fetched_again_and_takes_no_room(
    tmp_path: Path, server: HostileServer, cut_bytes: int
) -> None:
    stalled = threading.Event()
    server.answers[NAMES[1]] = [Answer(cut_bytes=cut_bytes, end="stall")]
    server.on_request = lambda name: stalled.set() if name == NAMES[1] else None
    with another_process(tmp_path, server, NAMES[:2]) as process:
        assert stalled.wait(60)
        os.kill(process.pid, signal.SIGKILL)
    assert there(tmp_path) == [NAMES[0], f"{NAMES[1]}.tmp"]
    assert size_bytes(tmp_path) == 2 * SHARD_BYTES
    cache = opened(tmp_path, server.url, limit_bytes=2 * SHARD_BYTES)
    assert held(cache, NAMES[2]) == FILES[NAMES[2]]
    assert there(tmp_path) == [NAMES[0], NAMES[2]]
    assert held(cache, NAMES[1]) == FILES[NAMES[1]]
    assert len(server.asked(NAMES[0])) == 1


def test_processes_that_share_a_cache_fetch_each_shard_once(tmp_path: Path, server: HostileServer) -> None:
    processes = [another_process(tmp_path, server, names) for names in (NAMES, NAMES[::-1])]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(name for name, _ in server.requests) == NAMES


def test_processes_that_share_a_small_cache_all_get_through_within_the_limit(
    tmp_path: Path, server: HostileServer
) -> None:
    seen = []
    server.on_request = lambda _: seen.append(size_bytes(tmp_path))
    processes = [another_process(tmp_path, server, names, 3 * SHARD_BYTES) for names in (NAMES, NAMES[::-1])]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert max(seen) <= 3 * SHARD_BYTES


def test_one_waits_while_another_fetches_and_does_it_itself_when_that_one_fails(
    tmp_path: Path, server: HostileServer
) -> None:
    begun = threading.Event()
    server.answers[NAMES[0]] = [Answer(cut_bytes=100, end="stall")]
    server.on_request = lambda _: begun.set()
    with another_process(tmp_path, server, NAMES[:1]) as process, ThreadPoolExecutor(1) as pool:
        assert begun.wait(60)
        waiting = pool.submit(held, opened(tmp_path, server.url), NAMES[0])
        process.kill()
        assert waiting.result(60) == FILES[NAMES[0]]
    assert server.asked(NAMES[0]) == ["", ""]


def test_a_process_can_end_while_a_server_keeps_its_threads_waiting(tmp_path: Path, server: HostileServer) -> None:
    asked = threading.Semaphore(0)
    server.otherwise, server.on_request = Answer(cut_bytes=10, end="stall"), lambda _: asked.release()
    with another_process(tmp_path, server, NAMES, code=BEGIN_AND_END) as process:
        assert asked.acquire(timeout=60)
        assert asked.acquire(timeout=60)
        process.communicate("\n", timeout=20)
        assert process.returncode == 0
    server.otherwise = Answer()
    assert held(opened(tmp_path, server.url, limit_bytes=2 * SHARD_BYTES), NAMES[7]) == FILES[NAMES[7]]


def in_a_fork(work: Callable[[], object]) -> int:
    """Do it in a process of its own, whose limits can be changed; return its exit code."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, server: HostileServer) -> None:
    """In a process that may write no file beyond 10 kB."""

    def fetch() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        says = rf"{NAMES[0]}: cannot be written \(File too large\); make room on that disk, lower --data\.cache_gb"
        with pytest.raises(DataError, match=says):
            opened(tmp_path, server.url).get(NAMES[0])

    assert in_a_fork(fetch) == 0
    assert there(tmp_path) == []


def test_more_shards_can_be_held_than_files_be_open_at_first(tmp_path: Path, server: HostileServer) -> None:
    def hold() -> None:
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 6, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        opened(tmp_path, server.url).hold(NAMES, threads=1)

    assert in_a_fork(hold) == 0


def test_a_cache_that_cannot_be_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=rf"--data\.cache_dir {tmp_path}/file/cache: nothing can be kept there"):
        CacheFolder(tmp_path / "file" / "cache", ROOMY)
