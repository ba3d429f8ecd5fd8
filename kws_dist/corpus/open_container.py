"""Whatever holds the recordings, opened by what it is, whatever it is called."""

from pathlib import Path

from kws_dist.corpus.container import Container
from kws_dist.corpus.tar import TarArchive
from kws_dist.corpus.tree import Tree
from kws_dist.corpus.zip import ZipArchive
from kws_dist.errors import UsageError

_TAR_MAGIC_OFFSET = 257


def open_container(path: Path, flag: str) -> Container:
    """Open a folder, a `.zip`, a `.tar.gz` or a `.tar`; raises `UsageError` naming the flag for anything else."""
    if path.is_dir():
        return Tree(path, flag)
    if not path.is_file():
        raise UsageError(f"{flag} {path}: there is no such folder or archive")
    with path.open("rb") as file:
        head = file.read(_TAR_MAGIC_OFFSET + 5)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return ZipArchive(path, flag)
    if head[:2] == b"\x1f\x8b" or head[_TAR_MAGIC_OFFSET:] == b"ustar" or path.suffix == ".tar":
        return TarArchive(path, flag)
    raise UsageError(
        f"{flag} {path}: neither a folder nor a .zip, .tar.gz or .tar archive; unpack it and pass the folder"
    )
