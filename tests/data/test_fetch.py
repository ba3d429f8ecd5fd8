"""What `Remote` promises about servers that are good, slow, broken or lying. All of it over real connections."""

import hashlib
import io
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostile_server import GOOD, Answer, HostileServer, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.data.fetch import Remote, UnreachableError
from kws_dist.data.received import Patience, Received, Wanted
from kws_dist.data.sources import read_cloud
from kws_dist.errors import DataError, UsageError

CONTENT = b"".join(hashlib.sha256(bytes([i & 255, i >> 8])).digest() for i in range(1250))
SIZE_BYTES = len(CONTENT)
OTHER = CONTENT[::-1]
QUICK = Patience(connect_s=10.0, stall_s=10.0, attempts=4, first_wait_s=0.001)
HASTY = Patience(connect_s=10.0, stall_s=0.2, attempts=8, first_wait_s=0.001)
WANTED = Wanted(limit_bytes=SIZE_BYTES, exact=True, sha256=hashlib.sha256(CONTENT).hexdigest())
NAME = "train-000000.tar"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving({NAME: CONTENT}) as server:
        yield server


def got(url: str, patience: Patience = QUICK, wanted: Wanted = WANTED) -> bytes:
    """Fetch the object whole."""
    file = io.BytesIO()
    Remote(url, patience).fetch(NAME, file, wanted)
    return file.getvalue()


def served_badly(server: HostileServer, *answers: Answer) -> HostileServer:
    server.answers[NAME] = list(answers)
    return server


def test_an_object_comes_from_a_path_a_file_url_or_a_server(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some where 100%25"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    local = [str(folder), f"{folder}/", folder.name]
    for url in [*local, f"file://{quote(str(folder))}", f"file://localhost{quote(str(folder))}", server.url]:
        assert got(url) == CONTENT
        assert Remote(url).read(NAME, SIZE_BYTES) == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "url",
    ["pipe:cat /etc/passwd", "pipe://cat", "simplecache::http://host/", "ftp://host/", "memory://", "data:,x",
     "ssh://host/", "zip://a.zip::pipe:x", "PIPE:ls"],
)  # fmt: skip
def test_other_schemes_are_refused_naming_the_flag_and_those_that_are_read(url: str) -> None:
    with pytest.raises(UsageError, match=r"--data\.shards '.*cannot be read.*file://, http://, https://, s3://, gs://"):
        Remote(url)


@pytest.mark.parametrize("url", ["http://", "https:///x", "http://:80/", "http://host:port/", "http://[::1/", "s3://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"--data\.shards .*not an address; it should look like \w+://NAME/FOLDER"):
        Remote(url)


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/x", "s3fs"), ("gs://b/x", "gcsfs"), ("gcs://b/x", "gcsfs")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails, whether or not it is installed
    with pytest.raises(UsageError, match=rf"{url}: .* {package}: pip install 'kws_dist\[cloud\]'"):
        Remote(url)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, SIZE_BYTES - 1), max_size=3))
def test_wherever_a_connection_breaks_the_rest_is_fetched_and_nothing_twice(cuts: list[int]) -> None:
    places = sorted(set(cuts))
    with serving({NAME: CONTENT}) as server:
        starts = [0, *places]
        served_badly(server, *[Answer(cut_bytes=end - start) for start, end in zip(starts, places, strict=False)])
        assert got(server.url) == CONTENT
        assert server.asked(NAME) == ["", *(f"bytes={place}-" for place in places)]
        assert server.sent_bytes == SIZE_BYTES


answers = st.builds(
    Answer,
    cut_bytes=st.integers(0, SIZE_BYTES),
    end=st.sampled_from(["close", "reset"]),
    ranges=st.booleans(),
    with_length=st.booleans(),
    change=st.sampled_from([bytes, lambda data: data[::-1], lambda data: data[:-7], lambda data: data + b"more"]),
    status=st.sampled_from([None, None, None, None, 503, 429, 408, 500, 416]),
    headers=st.sampled_from([{}, {"ETag": ""}, {"ETag": 'W/"weak"'}, {"ETag": '"always"'}, {"Content-Range": "odd"}]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(answers, max_size=5))
def test_whatever_a_server_does_the_right_bytes_come_or_one_sentence(bad: list[Answer]) -> None:
    """Broken connections, wrong bytes of the right length, wrong lengths, refused ranges, objects that change."""
    with serving({NAME: CONTENT}) as server:
        served_badly(server, *bad)
        said = ""
        try:
            assert got(server.url) == CONTENT
        except DataError as error:
            said = str(error)
        if said:
            assert f"{server.url}/{NAME}: given up after 4 attempts (at the last one: " in said
            assert len(bad) >= QUICK.attempts
        assert len(server.requests) <= 2 * QUICK.attempts  # once more where going on does not work


def test_a_server_without_ranges_sends_it_all_again(server: HostileServer) -> None:
    served_badly(server, Answer(cut_bytes=1000), Answer(ranges=False))
    assert got(server.url) == CONTENT
    assert server.asked(NAME) == ["", "bytes=1000-"]
    assert server.sent_bytes == 1000 + SIZE_BYTES


@pytest.mark.parametrize("headers", [{}, {"ETag": ""}, {"ETag": 'W/"1"'}])
def test_an_object_that_changes_between_attempts_is_never_a_mixture(
    server: HostileServer, headers: dict[str, str]
) -> None:
    """Seen by its ETag, and where there is none by the checksum."""
    served_badly(
        server, Answer(change=lambda data: data[::-1], cut_bytes=1000, headers=headers), Answer(headers=headers)
    )
    assert got(server.url) == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("headers", [{"ETag": 'W/"1"'}, {"ETag": "", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_an_object_of_which_nothing_is_known_is_no_mixture_if_the_server_tells_one_version_from_another(
    server: HostileServer, headers: dict[str, str], ranges: bool
) -> None:
    served_badly(server, Answer(change=lambda data: data[::-1], cut_bytes=1000, headers=headers), Answer(ranges=ranges))
    assert got(server.url, wanted=Wanted(limit_bytes=SIZE_BYTES)) == CONTENT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451])
def test_a_refusal_is_told_at_once(server: HostileServer, status: int) -> None:
    served_badly(server, Answer(status=status))
    with pytest.raises(DataError, match=rf"/data/{NAME}: the server answers {status} .*; check the address") as caught:
        got(server.url, Patience(first_wait_s=1000.0))
    assert not isinstance(caught.value, UnreachableError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507])
def test_a_server_that_is_busy_is_asked_again(server: HostileServer, status: int) -> None:
    served_badly(server, *[Answer(status=status)] * 3)
    assert got(server.url) == CONTENT
    assert len(server.requests) == 4


def test_a_lying_server_is_asked_again_and_then_given_up_with_both_checksums(server: HostileServer) -> None:
    lie = Answer(change=lambda data: data[::-1])
    served_badly(server, lie, lie, lie)
    assert got(server.url) == CONTENT
    server.otherwise = lie
    with pytest.raises(UnreachableError) as caught:
        got(server.url)
    assert f"{server.url}/{NAME}: given up after 4 attempts (at the last one: wrong bytes come" in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert WANTED.sha256 in str(caught.value)
    assert str(caught.value).endswith("check the server and the network, and run the same command again")


@pytest.mark.parametrize(("change", "says"), [(lambda data: data[:-1], "39,999"), (lambda data: data + b"?", "40,001")])
def test_a_wrong_length_is_told(server: HostileServer, change: Any, says: str) -> None:
    server.otherwise = Answer(change=change)
    with pytest.raises(UnreachableError, match=rf"it has {says} bytes there in place of 40,000"):
        got(server.url)


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_never_more_is_written_than_is_wanted_however_much_comes(
    server: HostileServer, with_length: bool, exact: bool
) -> None:
    server.otherwise = Answer(with_length=with_length)
    file = io.BytesIO()
    with pytest.raises(UnreachableError):
        Remote(server.url, QUICK).fetch(NAME, file, Wanted(limit_bytes=1000, exact=exact, sha256=WANTED.sha256))
    assert len(file.getvalue()) <= 1000


@pytest.mark.parametrize("end", ["stall", "drip"])
@pytest.mark.parametrize("sent_bytes", [0, 1000])
def test_a_server_that_stops_sending_is_left_and_asked_again(server: HostileServer, end: Any, sent_bytes: int) -> None:
    """Also one that sends a byte now and then for ever."""
    served_badly(server, Answer(cut_bytes=sent_bytes, end=end))
    assert got(server.url, HASTY) == CONTENT
    assert len(server.requests) >= 2  # more on a machine that is busy itself


@pytest.mark.parametrize("end", ["stall", "drip", "close"])
def test_a_server_that_never_recovers_ends_in_one_sentence_in_the_time_given(server: HostileServer, end: Any) -> None:
    server.otherwise = Answer(cut_bytes=0, end=end)
    patience = replace(HASTY, attempts=3)
    started_s = time.monotonic()
    with pytest.raises(UnreachableError, match=r"given up after 3 attempts \(at the last one: .*(0\.2 s|at byte 0)"):
        got(server.url, patience)
    assert time.monotonic() - started_s < 10  # 0.6 s where nothing else runs
    assert len(server.requests) == 3


def test_nobody_there_is_asked_as_often_and_then_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=rf"^{url}/{NAME}: given up after 4 attempts .*Connection refused"):
        got(url)


def test_waits_double_up_to_a_limit_and_are_always_the_same() -> None:
    assert [Patience().wait_s(failed) for failed in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_what_is_sent_in_an_encoding_is_refused_and_not_taken_for_the_object(server: HostileServer) -> None:
    served_badly(server, Answer(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(DataError, match="sends it as gzip"):
        got(server.url)


def test_a_token_opens_every_object_and_no_secret_is_shown(server: HostileServer) -> None:
    address = server.url.replace("http://", "http://me:secret@") + "/?token=secret"
    paths = []
    server.on_request = paths.append
    assert got(address) == CONTENT
    served_badly(server, Answer(status=404))
    with pytest.raises(DataError) as caught:
        got(address)
    assert "secret" not in str(caught.value)
    assert f"{server.url}/{NAME}: " in str(caught.value)
    assert paths == [NAME, NAME]
    assert "secret" not in Remote(address).shown


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_host_that_can_have_no_address_is_one_sentence(host: str) -> None:
    with pytest.raises(DataError, match=rf"^http://{host}/{NAME}: "):
        got(f"http://{host}")


def test_a_missing_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}/{NAME}: No such file or directory; check the address"):
        got(str(tmp_path), Patience(first_wait_s=1000.0))


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(cut_bytes=10, end="drip")])
def test_stopping_ends_a_wait_and_what_comes(server: HostileServer, answer: Answer) -> None:
    server.otherwise, asked = answer, threading.Event()
    server.on_request = lambda _: asked.set()
    remote = Remote(server.url, Patience(stall_s=1000.0, first_wait_s=1000.0, longest_wait_s=1000.0))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(remote.read, NAME, SIZE_BYTES)
        assert asked.wait(60)
        remote.stop()
        with pytest.raises(DataError, match="fetching was stopped"):
            fetching.result(60)


def received(wanted: Wanted = WANTED) -> tuple[io.BytesIO, Received]:
    file = io.BytesIO()
    return file, Received(file, wanted, threading.Event())


def test_a_cloud_store_is_read_in_ranges_and_goes_on_where_it_broke_off(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fsspec's file system for HTTP in place of a cloud's: all are used alike."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("kws_dist.data.sources._RANGE_BYTES", 16_000)
    served_badly(server, GOOD, Answer(status=500), GOOD, Answer(cut_bytes=7, end="stall"))
    file, object_ = received()
    for _ in range(2):
        with pytest.raises(Exception, match=r"ClientResponseError .*500|nothing came for 1 s"):
            read_cloud(f"{server.url}/{NAME}", object_, Patience(stall_s=1.0))
    read_cloud(f"{server.url}/{NAME}", object_, Patience(stall_s=1.0))
    object_.check()
    assert file.getvalue() == CONTENT
    assert [asked.split("-")[0] for asked in server.asked(NAME)] == [
        "bytes=0", "bytes=16000", "bytes=16000", "bytes=32000", "bytes=32000",
    ]  # fmt: skip
