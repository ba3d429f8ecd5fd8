"""Fixtures that tests of several folders share."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import tiny_corpus

LONGEST = ("test_crash_matrix.py", "test_stop.py", "test_chaos.py", "test_two_ranks.py", "test_restarts.py")
"""Files of few tests that take minutes each: begun first, so that at the end no process waits for another's."""


hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):  # the same commit passes or fails each time; elsewhere each run tries other examples
    hypothesis.settings.load_profile("ci")


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start, also where a shell runs the tests in its background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave the others in their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real recordings; tests that use it carry the marker `real_data`.

    Where there are none such tests are skipped, unless KWS_REQUIRE_REAL_DATA is set, as it is in CI.
    """
    folder = Path(os.environ.get("KWS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir() and not os.environ.get("KWS_REQUIRE_REAL_DATA"):
        pytest.skip(f"no real recordings in {folder}: name their folder in KWS_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tar.gz in the official layout: 3 words, 12 speakers, 21 clips for training, 6 val, 9 test, 2 noises."""
    return tiny_corpus.pack(tmp_path_factory.mktemp("tiny") / "tiny.tar.gz", tiny_corpus.files())


@pytest.fixture(scope="session")
def tiny_dataset(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `tiny_archive`: 3 train, 1 val, 2 test, 1 noise. Tests copy it before they change anything."""
    return tiny_corpus.shards_of(tiny_archive, tmp_path_factory.mktemp("tiny") / "shards")


@pytest.fixture(scope="session")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the same words as `tiny_dataset`, spoken by more speakers."""
    folder = tmp_path_factory.mktemp("other")
    archive = tiny_corpus.pack(folder / "other.tar.gz", tiny_corpus.files(speakers=15))
    return tiny_corpus.shards_of(archive, folder / "shards")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room for 3.2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3200000", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
