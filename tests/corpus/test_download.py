"""What `fetch` promises about servers that are good, slow, broken or wrong. All of it over real connections."""

import gzip
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from archive_server import Answer, ArchiveServer, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.corpus.download import BASE_URL, OFFICIAL, OfficialArchive, default_cache, fetch
from kws_dist.corpus.transfer import Patience
from kws_dist.errors import DataError, UsageError

CONTENT = b"".join(hashlib.sha256(bytes([i & 255, i >> 8])).digest() for i in range(1250))
SIZE_BYTES = len(CONTENT)
WRONG = CONTENT[:-1] + b"?"
AT_ONCE = Patience(waits_s=(0.0, 0.0, 0.0), poll_s=0.0, read_s=5.0)
GOOD = Answer()


def archive(content: bytes = CONTENT, **changes: Any) -> OfficialArchive:
    made = {"name": "speech.tar.gz", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return OfficialArchive(**made | changes)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving(CONTENT) as server:
        yield server


def got(cache: Path, base_url: str, patience: Patience = AT_ONCE) -> list[int]:
    """Fetch into an empty cache, seeing that the final name is there at the end and not before; return the progress."""
    final, seen = cache / "speech.tar.gz", list[int]()

    def on_progress(done_bytes: int, total_bytes: int) -> None:
        assert total_bytes == SIZE_BYTES
        assert not final.exists()
        seen.append(done_bytes)

    try:
        assert fetch(archive(), cache, base_url=base_url, on_progress=on_progress, patience=patience) == final
    except DataError:
        assert not final.exists()
        raise
    assert final.read_bytes() == CONTENT
    assert sorted(path.name for path in cache.iterdir()) == ["speech.tar.gz", "speech.tar.gz.lock"]
    return seen


def begun(cache: Path, content: bytes) -> Path:
    """A cache in which an earlier run left a part."""
    cache.mkdir(exist_ok=True)
    (cache / "speech.tar.gz.part").write_bytes(content)
    return cache


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_a_file_is_fetched_once_and_then_comes_from_the_cache(
    tmp_path: Path, server: ArchiveServer, slash: str
) -> None:
    cache = tmp_path / "not" / "there"
    progress = got(cache, server.url + slash)
    assert (progress[0], progress[-1]) == (0, SIZE_BYTES)
    assert progress == sorted(progress)
    assert [request.path for request in server.requests] == ["/data/speech.tar.gz"]
    assert fetch(archive(), cache, base_url=server.url, on_progress=pytest.fail) == cache / "speech.tar.gz"
    assert len(server.requests) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, SIZE_BYTES), max_size=12))
def test_wherever_the_connection_breaks_the_rest_is_fetched_and_nothing_twice(cuts: list[int]) -> None:
    places = sorted({*cuts} - {0, SIZE_BYTES})
    with serving(CONTENT) as server, TemporaryDirectory() as cache:
        starts = [0, *places]
        server.answers = [Answer(cut_bytes=end - start) for start, end in zip(starts, places, strict=False)] + [GOOD]
        got(Path(cache), server.url)
        assert server.ranges == ["", *(f"bytes={place}-" for place in places)]
        assert server.sent_bytes == SIZE_BYTES


answers = st.builds(
    Answer,
    cut_bytes=st.integers(0, SIZE_BYTES),
    end=st.sampled_from(["close", "reset"]),
    ranges=st.booleans(),
    with_length=st.booleans(),
    content=st.sampled_from([None, WRONG]),
    status=st.sampled_from([None, None, None, 503]),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(answers, max_size=8))
def test_whatever_a_server_does_the_file_is_right_or_not_there_and_a_good_server_then_completes_it(
    bad: list[Answer],
) -> None:
    with serving(CONTENT) as server, TemporaryDirectory() as cache:
        server.answers = [*bad, GOOD]
        try:
            got(Path(cache), server.url)
        except DataError:
            server.answers = [GOOD]
            got(Path(cache), server.url)


def test_a_server_without_ranges_starts_from_the_beginning(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(cut_bytes=1000), Answer(ranges=False)]
    progress = got(tmp_path, server.url)
    assert server.ranges == ["", "bytes=1000-"]
    assert progress[progress.index(1000) + 1] == 0


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=416, content=b"", headers={"Content-Range": f"bytes */{SIZE_BYTES}"}),
        Answer(status=416, content=b""),
        Answer(headers={"Content-Range": ""}),
        Answer(headers={"Content-Range": f"bytes 0-{SIZE_BYTES - 1}/{SIZE_BYTES}"}),
        Answer(headers={"Content-Range": f"bytes 1001-{SIZE_BYTES - 1}/{SIZE_BYTES}"}),
        Answer(headers={"Content-Range": "nonsense"}),
    ],
)
def test_a_server_that_misunderstands_ranges_is_asked_for_the_whole_file(
    tmp_path: Path, server: ArchiveServer, answer: Answer
) -> None:
    server.answers = [answer, GOOD]
    got(begun(tmp_path, CONTENT[:1000]), server.url)
    assert server.ranges == ["bytes=1000-", ""]


def test_a_range_whose_total_is_not_told_is_taken(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(headers={"Content-Range": f"bytes 1000-{SIZE_BYTES - 1}/*"})]
    got(begun(tmp_path, CONTENT[:1000]), server.url)
    assert len(server.requests) == 1


def test_a_connection_that_breaks_again_and_again_at_one_place_is_given_up_and_what_came_is_kept(
    tmp_path: Path, server: ArchiveServer
) -> None:
    server.answers = [Answer(cut_bytes=1000), Answer(cut_bytes=0)]
    with pytest.raises(DataError, match=r"at byte 1,000 of 40,000; what came is kept.*--base_url"):
        got(tmp_path, server.url)
    assert len(server.requests) == 1 + len(AT_ONCE.waits_s)
    server.answers = [GOOD]
    got(tmp_path, server.url)
    assert server.sent_bytes == SIZE_BYTES


def test_a_server_without_ranges_that_always_breaks_is_given_up(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(cut_bytes=1000, ranges=False)]
    with pytest.raises(DataError, match="at byte 1,000"):
        got(tmp_path, server.url)
    assert len(server.requests) == 1 + len(AT_ONCE.waits_s)


def test_a_server_that_falls_silent_is_left_and_asked_for_the_rest(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(cut_bytes=12_345, end="stall"), GOOD]
    got(tmp_path, server.url, Patience(read_s=0.2, waits_s=(0.0,)))
    assert server.ranges == ["", "bytes=12345-"]


def test_a_server_that_stays_silent_is_named_with_the_time_it_had(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(cut_bytes=0, end="stall")]
    with pytest.raises(DataError, match=r"speech\.tar\.gz: nothing came for 0\.05 s; name another address"):
        got(tmp_path, server.url, Patience(read_s=0.05, waits_s=()))


def test_wrong_bytes_are_removed_and_named_by_address_and_both_checksums(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(content=WRONG), GOOD]
    with pytest.raises(DataError) as caught:
        got(tmp_path, server.url)
    for part in (f"{server.url}/speech.tar.gz", hashlib.sha256(WRONG).hexdigest(), archive().sha256, "--base_url"):
        assert part in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["speech.tar.gz.lock"]
    got(tmp_path, server.url)
    assert server.ranges == ["", ""]


def test_a_file_that_changes_between_two_tries_is_fetched_anew_in_one_go(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(content=b"?" * SIZE_BYTES, cut_bytes=1000), GOOD, GOOD]
    got(tmp_path, server.url)
    assert server.ranges == ["", "bytes=1000-", ""]


def test_a_damaged_part_costs_one_fetch_anew_and_no_more(tmp_path: Path, server: ArchiveServer) -> None:
    got(begun(tmp_path / "cut", b"?" * 1000), server.url)
    got(begun(tmp_path / "whole", WRONG), server.url)
    assert server.ranges == ["bytes=1000-", "", ""]
    server.content = WRONG
    with pytest.raises(DataError, match="SHA-256"):
        got(begun(tmp_path / "never", b"?" * 1000), server.url)
    assert server.ranges[3:] == ["bytes=1000-", ""]


def test_a_whole_part_is_checked_without_asking_anyone(tmp_path: Path, server: ArchiveServer) -> None:
    assert got(begun(tmp_path, CONTENT), server.url) == []
    assert server.requests == []


def test_a_part_that_is_too_long_is_begun_anew(tmp_path: Path, server: ArchiveServer) -> None:
    got(begun(tmp_path, CONTENT + b"?"), server.url)
    assert server.ranges == [""]


def test_another_server_goes_on_with_what_one_began(tmp_path: Path, server: ArchiveServer) -> None:
    with serving(CONTENT) as first:
        first.answers = [Answer(cut_bytes=1000, headers={"ETag": '"one"'}), Answer(status=404)]
        with pytest.raises(DataError, match="404"):
            got(tmp_path, first.url)
    server.answers = [Answer(headers={"ETag": '"other"'})]
    got(tmp_path, server.url)
    assert server.ranges == ["bytes=1000-"]


def test_no_more_than_the_published_size_is_written_however_much_a_server_sends(
    tmp_path: Path, server: ArchiveServer
) -> None:
    server.answers = [Answer(with_length=False, more=b"?" * 10_000)]
    assert max(got(tmp_path / "right", server.url)) == SIZE_BYTES
    server.answers = [Answer(more=b"?" * 10_000)]
    got(tmp_path / "more than announced", server.url)
    server.content = WRONG
    server.answers = [Answer(with_length=False, more=b"?" * 10_000)]
    with pytest.raises(DataError, match="SHA-256"):
        got(tmp_path / "wrong", server.url)


@pytest.mark.parametrize("content", [CONTENT + b"?", b"<html>Please log in</html>"])
def test_a_file_of_another_size_is_refused_before_a_byte_is_written(
    tmp_path: Path, server: ArchiveServer, content: bytes
) -> None:
    server.content = content
    for cache in (tmp_path / "new", begun(tmp_path / "begun", CONTENT[:5])):
        with pytest.raises(DataError, match=rf"has {len(content)} bytes|has 40,001 bytes"):
            got(cache, server.url)
    assert (tmp_path / "begun" / "speech.tar.gz.part").read_bytes() == CONTENT[:5]


def test_a_server_that_takes_the_gz_of_a_tar_gz_for_an_encoding_still_gives_the_file(tmp_path: Path) -> None:
    content = gzip.compress(CONTENT)
    with serving(content) as server:
        server.answers = [Answer(headers={"Content-Encoding": "gzip"})]
        assert fetch(archive(content), tmp_path, base_url=server.url).read_bytes() == content
        assert [request.encoding for request in server.requests] == ["identity"]


def test_a_redirect_is_followed_also_by_the_rest_of_a_broken_download(tmp_path: Path, server: ArchiveServer) -> None:
    with serving(b"") as front:
        front.answers = [Answer(status=302, headers={"Location": f"{server.url}/elsewhere"})]
        server.answers = [Answer(cut_bytes=1000), GOOD]
        got(tmp_path, front.url)
    assert [(request.path, request.range) for request in server.requests] == [
        ("/data/elsewhere", ""),
        ("/data/elsewhere", "bytes=1000-"),
    ]


def test_a_redirect_in_a_circle_is_an_error(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(status=302, headers={"Location": f"{server.url}/speech.tar.gz"})]
    with pytest.raises(DataError, match=r"speech\.tar\.gz: .*redirects.*--base_url"):
        got(tmp_path, server.url)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_at_once_with_the_ways_out(tmp_path: Path, server: ArchiveServer, status: int) -> None:
    server.answers = [Answer(status=status)]
    with pytest.raises(DataError) as caught:
        got(tmp_path, server.url)
    assert f"{server.url}/speech.tar.gz: the server answers {status} " in str(caught.value)
    assert "--base_url, or get speech.tar.gz by other means and pass it with --archive" in str(caught.value)
    assert len(server.requests) == 1


def test_the_way_out_for_a_test_set_is_its_own_flag(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(status=404)]
    with pytest.raises(DataError, match=r"with --test_archive$"):
        fetch(OFFICIAL["0.02", "test"], tmp_path, base_url=server.url)


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(status=503), Answer(status=429), GOOD]
    got(tmp_path, server.url)
    server.answers = [Answer(status=503)]
    with pytest.raises(DataError, match="503 Service Unavailable"):
        got(tmp_path / "other", server.url)


@pytest.fixture
def closed_url() -> str:
    """The address of a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_nobody_there_is_told_at_once(tmp_path: Path, closed_url: str) -> None:
    long_waits = Patience(waits_s=(1000.0,))
    with pytest.raises(DataError, match=rf"^{closed_url}/speech.tar.gz: Connection refused; name another"):
        got(tmp_path, closed_url, long_waits)
    with pytest.raises(DataError, match=r"^http://nobody\.invalid/.*[Nn]ame .*; name another address with --base_url"):
        got(tmp_path, "http://nobody.invalid", long_waits)


def test_a_server_that_is_away_for_a_while_after_it_was_there_is_asked_again(
    tmp_path: Path, server: ArchiveServer, closed_url: str
) -> None:
    with serving(b"") as front:
        front.answers = [Answer(status=302, headers={"Location": url}) for url in (server.url, closed_url, server.url)]
        server.answers = [Answer(cut_bytes=1000), GOOD]
        got(tmp_path, front.url)
    assert server.ranges == ["", "bytes=1000-"]
    assert len(front.requests) == 3


@pytest.mark.parametrize(
    "base_url",
    ["", "data", "/data", "file:///data", "ftp://host/data", "https://", "http://:80/", "http://host:port/",
     "http://host/?file=", "http://host/#", "http://[::1/"],
)  # fmt: skip
def test_an_address_that_is_none_is_a_usage_error_naming_the_flag(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(UsageError, match="--base_url"):
        fetch(archive(), tmp_path / "cache", base_url=base_url)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "a b"])
def test_a_host_that_can_have_no_address_is_one_sentence(tmp_path: Path, host: str) -> None:
    with pytest.raises(DataError, match=rf"^http://{re.escape(host)}/.*; name another address with --base_url"):
        got(tmp_path, f"http://{host}")


def test_a_password_in_the_address_is_sent_and_not_shown(tmp_path: Path, server: ArchiveServer) -> None:
    address = server.url.replace("http://", "http://me:secret@")
    server.answers = [Answer(status=404)]
    with pytest.raises(DataError) as caught:
        got(tmp_path, address)
    assert "secret" not in str(caught.value)
    assert server.url in str(caught.value)


def test_a_file_that_changed_in_the_cache_is_an_error_saying_what_to_do(tmp_path: Path, server: ArchiveServer) -> None:
    changed = tmp_path / "speech.tar.gz"
    changed.write_bytes(WRONG)
    with pytest.raises(DataError, match=rf"{changed}: .*{hashlib.sha256(WRONG).hexdigest()}.*remove it"):
        fetch(archive(), tmp_path, base_url=server.url)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [WRONG]
    assert server.requests == []


def test_a_folder_that_cannot_be_one_is_a_usage_error(tmp_path: Path, server: ArchiveServer) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/cache: .*KWS_CACHE"):
        fetch(archive(), tmp_path / "file" / "cache", base_url=server.url)


def test_a_disk_without_the_room_is_told_before_anything_is_asked(tmp_path: Path, server: ArchiveServer) -> None:
    with pytest.raises(DataError, match=r"1,000,000,000,000 MB are to be fetched and .* MB are free.*KWS_CACHE"):
        fetch(archive(size_bytes=10**18), tmp_path, base_url=server.url)
    assert server.requests == []


def test_only_the_room_for_what_is_missing_is_needed(tmp_path: Path, server: ArchiveServer) -> None:
    size_bytes = shutil.disk_usage(tmp_path).free + (1 << 40)
    os.truncate(begun(tmp_path, b"") / "speech.tar.gz.part", size_bytes - 1000)  # takes no room
    with pytest.raises(DataError, match="the file there has 40,000 bytes"):
        fetch(archive(size_bytes=size_bytes), tmp_path, base_url=server.url)
    assert server.ranges == [f"bytes={size_bytes - 1000}-"]


def test_a_disk_that_is_full_after_all_is_one_sentence(tmp_path: Path, server: ArchiveServer) -> None:
    (tmp_path / "speech.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"speech\.tar\.gz\.part: .*No space left on device.*run the same command"):
        fetch(archive(), tmp_path, base_url=server.url, patience=AT_ONCE)
    assert len(server.requests) == 1


def downloading(cache: Path, server: ArchiveServer) -> subprocess.Popen[str]:
    """Start to fetch in another process, which prints its progress."""
    code = (
        "import sys; from pathlib import Path; from kws_dist.corpus.download import OfficialArchive, fetch\n"
        "name, size, sha256, cache, url = sys.argv[1:]\n"
        "fetch(OfficialArchive(name=name, size_bytes=int(size), sha256=sha256), Path(cache), base_url=url,"
        " on_progress=lambda done, total: print(done, flush=True))"
    )
    arguments = [archive().name, str(SIZE_BYTES), archive().sha256, str(cache), server.url]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], done_bytes: int) -> None:
    assert process.stdout
    assert next((line for line in process.stdout if int(line) == done_bytes), None), "it ended too early"


def test_killed_in_the_middle_it_goes_on_with_the_very_next_byte(tmp_path: Path, server: ArchiveServer) -> None:
    server.answers = [Answer(cut_bytes=23_456, end="stall"), GOOD]
    with downloading(tmp_path, server) as process:
        wait_for(process, 23_456)
        process.kill()
    assert not (tmp_path / "speech.tar.gz").exists()
    assert got(tmp_path, server.url)[0] == 23_456
    assert server.ranges == ["", "bytes=23456-"]
    assert server.sent_bytes == SIZE_BYTES


def test_of_two_processes_one_fetches_and_the_other_waits_and_shows_how_far_it_is(
    tmp_path: Path, server: ArchiveServer
) -> None:
    server.answers = [Answer(cut_bytes=23_456, end="stall"), Answer(status=404)]
    seen = []

    def on_progress(done_bytes: int, total_bytes: int) -> None:
        seen.append((done_bytes, total_bytes))
        server.released.set()

    with downloading(tmp_path, server) as process:
        wait_for(process, 23_456)
        path = fetch(archive(), tmp_path, base_url=server.url, on_progress=on_progress, patience=AT_ONCE)
        assert path.read_bytes() == CONTENT
        assert process.wait() == 0
    assert seen[0] == (23_456, SIZE_BYTES)
    assert len(server.requests) == 1


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KWS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "kws_dist"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG base directory specification
    assert default_cache() == tmp_path / ".cache" / "kws_dist"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache() == Path("/xdg/kws_dist")
    monkeypatch.setenv("KWS_CACHE", "~/mine")
    assert default_cache() == tmp_path / "mine"
    monkeypatch.setenv("KWS_CACHE", "")
    assert default_cache() == Path("/xdg/kws_dist")


def test_the_official_archives_are_four_and_all_different() -> None:
    assert set(OFFICIAL) == {(version, kind) for version in ("0.01", "0.02") for kind in ("main", "test")}
    for (version, kind), one in OFFICIAL.items():
        assert one.name == f"speech_commands_{'test_set_' if kind == 'test' else ''}v{version}.tar.gz"
        assert len(bytes.fromhex(one.sha256)) == 32
    assert len({one.sha256 for one in OFFICIAL.values()}) == 4
    assert BASE_URL.startswith("https://")
