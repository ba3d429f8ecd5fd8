"""Files and servers of strangers can do no more than be refused: nothing they say is run, opened, written or believed.

`test_structure.py` keeps pickle and its like out of the code. The archives of strangers are the matter of
`corpus/test_hostile_archives.py` and `corpus/test_zip.py`, their servers that of `data/test_fetch.py`, and whatever
else they may send that of `test_fuzz.py`.
"""

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forging import forge_clip, nothing_touched, sealed
from hostile_server import Answer, HostileServer, serving
from limits import limits
from spoken_corpus import shards_of_recordings, spoken
from tiny_corpus import tone

from kws_dist.config import DataConfig, load_text
from kws_dist.corpus.audio import decode
from kws_dist.corpus.tar import TarArchive
from kws_dist.corpus.wav import samples_of_wav
from kws_dist.data.fetch import Remote
from kws_dist.data.received import Patience
from kws_dist.errors import DataError, UsageError
from kws_dist.shards.codec import encode
from kws_dist.shards.read import open_dataset
from kws_dist.shards.record import tar_header
from kws_dist.shards.verify import verify
from kws_dist.sweep import read_sweep
from kws_dist.training import checkpoint
from kws_dist.training.data import open_data
from kws_dist.training.rebuild import rebuild_from

ROOT = Path(__file__).parents[1]
CODE = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("kws_dist", "launch", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
RUNS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "importlib.import_module"}
READS = {"np.load", "numpy.load", "np.loadtxt", "np.genfromtxt", "pd.read_pickle", "torch.jit.load", "torch.hub.load"}
EXPECTED = {
    ("kws_dist/corpus/tar.py", "tar.extractfile"): "a stream of a member that was checked; its name is no path",
    ("kws_dist/training/ranks.py", "broadcast_object_list"): "between the ranks of one job",
    ("kws_dist/training/ranks.py", "gather_object"): "between the ranks of one job",
}
"""Calls that look like trouble and are none, and why."""


def could_run(tree: ast.Module) -> Iterator[str]:
    """Name the calls that could run what they are given, or take a name in an archive for a path."""
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func)
        last = name.rpartition(".")[2]
        shell = any(keyword.arg in ("shell", "allow_pickle") for keyword in call.keywords)
        objects = last.endswith(("_object", "_object_list")) or last in ("extractfile", "decode_all", "autodecode")
        webdataset = "webdataset" in name.lower() and any(keyword.arg == "handler" for keyword in call.keywords)
        if name in RUNS | READS or shell or objects or webdataset:
            yield name


def test_no_call_can_run_what_it_reads_but_those_that_are_known() -> None:
    assert {(path, name) for path, tree in CODE.items() for name in could_run(tree)} == EXPECTED.keys()


@pytest.mark.parametrize(
    "code",
    ["eval(text)", "subprocess.run(text, shell=True)", "os.system(text)", "np.load(path)", "tar.extractfile(name)",
     "dist.broadcast_object_list(a)", "np.fromfile(path, allow_pickle=False)", "__import__(name)"],
)  # fmt: skip
def test_the_scan_sees_what_it_is_for(code: str) -> None:
    assert list(could_run(ast.parse(code)))


class Evil:
    """What makes a folder when it is unpickled."""

    def __init__(self, outside: Path) -> None:
        self.place = outside / "was-run"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside what is read, with something to be read in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.safetensors").write_bytes(b"secret")
    return folder


@pytest.fixture
def copy(tiny_dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_dataset, tmp_path / "shards")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "step-00000001"
    checkpoint.save(path, {"weights": {"a": torch.ones(3)}}, {"step": 1, "words": ["yes"]})
    return path


def listed(path: Path, name: str, data: bytes) -> None:
    """List a file in the manifest of a checkpoint, with its right size and checksum."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("disguise", [pickle.dumps, torch_file, lambda evil: b"\x80\x04" + pickle.dumps(evil)])
@pytest.mark.parametrize("name", ["weights.safetensors", "state.json"])
def test_a_pickle_in_place_of_a_part_of_a_checkpoint_is_refused_and_not_run(
    saved: Path, outside: Path, name: str, disguise: Callable[[object], bytes]
) -> None:
    data = disguise(Evil(outside))
    (saved / name).write_bytes(data)
    listed(saved, name, data)
    with nothing_touched(outside), pytest.raises(DataError, match=name):
        checkpoint.load(saved)


def test_the_pickle_of_these_tests_does_run_where_it_is_believed(outside: Path) -> None:
    pickle.loads(pickle.dumps(Evil(outside)))
    assert (outside / "was-run").is_dir()


def test_other_files_in_a_checkpoint_are_not_looked_at(saved: Path, outside: Path) -> None:
    for name in ("evil.pkl", "weights.pt", "optimizer.bin"):
        (saved / name).write_bytes(pickle.dumps(Evil(outside)))
    with nothing_touched(outside):
        assert checkpoint.load(saved).tensors.keys() == {"weights"}


@pytest.mark.parametrize(
    "name",
    ["../../outside/secret.safetensors", "{outside}/secret.safetensors", "..", ".", "", "a/b.json", "a\0.json",
     "\ud800.json", "evil.pkl", "x" * 300 + ".json", "a\n.json"],
)  # fmt: skip
def test_a_checkpoint_cannot_name_any_file_but_its_own(saved: Path, outside: Path, name: str) -> None:
    listed(saved, name.format(outside=outside), b"secret")
    with nothing_touched(outside), pytest.raises(DataError, match=r"manifest\.json is damaged"):
        checkpoint.load(saved)
    assert "manifest.json is damaged" in checkpoint.problem(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_link_in_a_checkpoint_does_not_lead_out_of_it(saved: Path, outside: Path, name: str) -> None:
    (saved / name).rename(outside / name)
    (saved / name).symlink_to(outside / name)
    with nothing_touched(outside), pytest.raises(DataError, match=f"{name} cannot be read"):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(saved: Path, name: str) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(DataError, match=name):
        checkpoint.load(saved)


@pytest.mark.parametrize("size_bytes", [1 << 40, -1, 10**30, True])
def test_a_size_that_a_manifest_claims_takes_no_memory(saved: Path, size_bytes: int) -> None:
    manifest = json.loads((saved / "manifest.json").read_bytes())
    manifest["weights.safetensors"]["bytes"] = size_bytes
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with limits(), pytest.raises(DataError, match=r"weights\.safetensors|manifest\.json"):
        checkpoint.load(saved)


def test_a_checkpoint_that_holds_no_model_of_ours_is_one_sentence(saved: Path) -> None:
    with pytest.raises(DataError, match="step-00000001"):
        rebuild_from(checkpoint.load(saved))


# A dataset of which every checksum is right.


def renamed(name: str) -> Callable[[bytes], bytes]:
    """Give the audio of a clip another name."""
    return lambda record: tar_header(name, int(record[124:135], 8)) + record[512:]


def of_kind(kind: bytes, link: bytes = b"") -> Callable[[bytes], bytes]:
    """Make the audio of a clip a member of another kind, which tar would follow or make."""

    def change(record: bytes) -> bytes:
        header = tarfile.TarInfo.frombuf(record[:512], "utf-8", "strict")
        header.type, header.linkname = kind, link.decode()
        return header.tobuf(tarfile.GNU_FORMAT) + record[512:]

    return change


HOSTILE_MEMBERS = {
    "a path upwards": renamed("../../outside/evil.wav"),
    "an absolute path": renamed("/tmp/evil.wav"),
    "a pickle by its name": renamed("yes/evil.pkl"),
    "a torch file by its name": renamed("yes/evil.pth"),
    "the name of another clip": renamed("up/00000005_nohash_0.wav"),
    "a link": of_kind(tarfile.SYMTYPE, b"../outside/secret.safetensors"),
    "a hard link": of_kind(tarfile.LNKTYPE, b"/etc/passwd"),
    "a device": of_kind(tarfile.CHRTYPE),
    "a pipe": of_kind(tarfile.FIFOTYPE),
    "a folder": of_kind(tarfile.DIRTYPE),
    "a sparse file": of_kind(tarfile.GNUTYPE_SPARSE),
    "a header that is none": lambda record: b"\xff" * 512 + record[512:],
}


@pytest.mark.parametrize("what", HOSTILE_MEMBERS)
@pytest.mark.parametrize("residency", ["device", "host"])
def test_what_a_member_of_a_shard_calls_itself_means_nothing_to_training_and_is_named_by_the_doctor(
    copy: Path, tiny_dataset: Path, outside: Path, what: str, residency: Any
) -> None:
    config = DataConfig(shards=str(copy), residency=residency)
    before = open_data(DataConfig(shards=str(tiny_dataset)), torch.device("cpu"), ("train",)).stores["train"]
    key = forge_clip(copy / "train-000000.tar", 1, HOSTILE_MEMBERS[what])
    with nothing_touched(outside):
        store = open_data(config, torch.device("cpu"), ("train",)).stores["train"]
        everything = np.arange(len(store.rows))
        assert torch.equal(store.gather(everything), before.gather(everything))
        [fault] = verify(copy).faults
    assert (fault.file, fault.clips) == ("train-000000.tar", (key,))
    assert "its tar header is not that of" in fault.sentence


@pytest.mark.parametrize(
    "name", ["../outside/train-000000.tar", "/outside/train-000000.tar", "train-000000.tar/../../outside/train-0.tar",
             "./train-000000.tar", "train-000000.tar\n", "train-000000.tar\0", "outside"],
)  # fmt: skip
def test_dataset_json_cannot_name_a_shard_in_another_folder(copy: Path, outside: Path, name: str) -> None:
    for path in (copy / "train-000000.tar", copy / "train-000000.idx"):
        path.rename(outside / path.name)
    meta = json.loads((copy / "dataset.json").read_bytes())
    meta["shards"][0]["name"] = name
    (copy / "dataset.json").write_bytes(sealed(meta))
    for read in (open_dataset, lambda root: open_data(DataConfig(shards=str(root)), torch.device("cpu"), ("train",))):
        with nothing_touched(outside), pytest.raises(DataError, match=r"dataset\.json: .* is no name of a shard"):
            read(copy)


@pytest.mark.parametrize("word", ["\x1b[2J", "\ud800", "", "x" * 65, "a\nb"])
def test_dataset_json_cannot_bring_words_that_no_terminal_should_see(copy: Path, word: str) -> None:
    meta = json.loads((copy / "dataset.json").read_bytes())
    (copy / "dataset.json").write_bytes(sealed({**meta, "words": [word, *meta["words"][1:]]}))
    with pytest.raises(DataError, match=r"dataset\.json: .* not a list of different words") as caught:
        open_dataset(copy)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../outside/train-000000.tar", "/etc/passwd", "train-000000.tar\0", 7])
def test_unfinished_json_cannot_name_a_shard_in_another_folder(copy: Path, outside: Path, name: object) -> None:
    described = {"plan": "", "state": "", "words": [], "task": "", "codec": "wav", "seed": 0, "source": {}}
    unfinished = {**described, "command": ["make", "it"], "rejected": [], "shards": [[name, 1]]}
    (copy / "dataset.json").unlink()
    (copy / "unfinished.json").write_text(json.dumps(unfinished))
    with nothing_touched(outside), pytest.raises(DataError, match=r"unfinished\.json: damaged"):
        open_dataset(copy)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_an_index_that_is_no_file_is_neither_waited_for_nor_read_for_ever(
    copy: Path, make: Callable[[Path], object]
) -> None:
    path = copy / "train-000000.idx"
    path.unlink()
    make(path)
    with limits(), pytest.raises(DataError, match=r"train-000000\.idx: not a file"):
        open_dataset(copy)
    assert [fault.file for fault in verify(copy).faults] == [path.name]


@pytest.mark.parametrize("claimed_samples", [2**36 - 1, 10**6])
@pytest.mark.parametrize("in_index_too", [False, True])
def test_flac_that_claims_gigabytes_takes_no_memory(tmp_path: Path, claimed_samples: int, in_index_too: bool) -> None:
    root = shards_of_recordings(spoken(2).values(), tmp_path / "flac", codec="flac")

    def claim(record: bytes) -> bytes:
        at = 512 + 21  # where the length is in the first block of metadata: the last 36 bits of 5 bytes
        length = (record[at] & 0xF0) << 32 | claimed_samples
        return record[:at] + length.to_bytes(5, "big") + record[at + 5 :]

    columns = {"n_samples": min(claimed_samples, 1 << 26)} if in_index_too else {}
    key = forge_clip(root / "train-000000.tar", 1, claim, **columns)
    with limits(), pytest.raises(DataError, match="train-000000") as caught:
        open_data(DataConfig(shards=str(root), long="start"), torch.device("cpu"), ("train",))
    assert key in str(caught.value)


@pytest.mark.parametrize("claimed_bytes", [2**31, 2**32 - 2, 10**9])
def test_a_wav_that_claims_gigabytes_takes_no_memory(claimed_bytes: int) -> None:
    wav = encode(tone(1), "wav")
    wav = wav[:40] + claimed_bytes.to_bytes(4, "little") + wav[44:]
    with limits():
        for read in (samples_of_wav, decode):
            with pytest.raises(DataError, match=r"x: cut off after 800 of [\d]+ samples"):
                read(wav, "x")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_a_tar_that_claims_gigabytes_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("yes/evil.wav")
    header.type, header.size = kind, 8 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 9 << 30)  # a hole: it is as long as it says, and takes no room
    with limits(), pytest.raises(DataError, match=r"a\.tar: .*(claims 8589934592 bytes|larger than 64 MiB)"):
        TarArchive(path).scan()


# Settings.


TAGS = ["!!python/object/apply:os.mkdir [{path}]", "!!python/object/apply:os.system ['mkdir {path}']",
        "!!python/object/new:os.mkdir {{args: [{path}]}}", "!!python/name:os.mkdir", "!!python/module:os"]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_a_python_tag_in_settings_is_not_obeyed(tmp_path: Path, outside: Path, tag: str) -> None:
    evil = tag.format(path=outside / "was-run")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"name: {evil}\ngrid: {{model.name: {evil}}}\nsettings: {evil}\n")
    with nothing_touched(outside):
        for text in (f"seed: {evil}", f"model: {evil}", evil, f"data: {{shards: {evil}}}"):
            with suppress(UsageError, SystemExit):  # a tag that is passed over leaves a text
                load_text(text, name="evil.yaml")
        with suppress(UsageError, SystemExit):
            read_sweep(sweep)


def test_a_few_lines_of_aliases_are_not_made_billions_of(tmp_path: Path) -> None:
    lines = ["x0: &x0 {a: 1, b: 2}", *(f"x{i}: &x{i} {{a: *x{i - 1}, b: *x{i - 1}}}" for i in range(1, 64))]
    sweep = tmp_path / "evil.yaml"
    sweep.write_text("\n".join(lines))
    for read in (lambda: load_text(sweep.read_text(), name="evil.yaml"), lambda: read_sweep(sweep)):
        with (
            limits(),
            pytest.raises(UsageError, match=r"evil\.yaml: what line 1 holds is used again by an alias; write"),
        ):
            read()


def test_one_value_may_stand_for_others() -> None:
    assert load_text("seed: &seed 7\ntrain: {epochs: *seed}", name="x.yaml").train.epochs == 7


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "a: " + "- " * 5000])
def test_settings_nested_without_end_are_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"evil\.yaml"):
        load_text(text, name="evil.yaml")


# Addresses and servers.


@pytest.mark.parametrize(
    "url",
    ["pipe:mkdir {path}", "PIPE:mkdir {path}", "javascript:alert(1)", "data:text/plain,x", "ftp://host/", "jar:file:/x",
     "zip://x::pipe:mkdir {path}", "simplecache::file://{path}", "local://{path}", "gopher://host/", "sftp://host/",
     "github://o:r@/x", "reference://", "http+unix://x/"],
)  # fmt: skip
def test_training_refuses_a_scheme_that_it_does_not_know(tmp_path: Path, outside: Path, url: str) -> None:
    config = DataConfig(shards=url.format(path=outside / "was-run"), cache_dir=str(tmp_path / "cache"))
    with nothing_touched(outside), pytest.raises(UsageError, match=r"--data\.shards .* cannot be read; give a folder"):
        open_data(config, torch.device("cpu"), ("train",))


@pytest.mark.parametrize(
    "url", ["ftp://me:secret@host/x", "pipe://me:secret@host/?token=secret", "http://me:secret@host:port/x",
            "https://me:secret@/x", "http://me:secret@[::1/x?token=secret"],
)  # fmt: skip
def test_a_password_in_an_address_that_cannot_be_used_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match=r"--data\.shards") as caught:
        Remote(url)
    assert "secret" not in str(caught.value)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving({"dataset.json": b"x" * 1000}) as server:
        yield server


QUICK = Patience(connect_s=5.0, stall_s=5.0, attempts=3, first_wait_s=0.0)


@pytest.mark.parametrize("target", ["file://{path}", "ftp://host/x", "data:,secret", "pipe:cat {path}", "{path}", "//"])
def test_a_redirect_leads_to_no_other_scheme(server: HostileServer, outside: Path, target: str) -> None:
    location = target.format(path=outside / "secret.safetensors")
    server.otherwise = Answer(status=302, headers={"Location": location})
    with nothing_touched(outside, but=("socket.connect",)), pytest.raises(DataError, match=r"/data/dataset\.json: "):
        Remote(server.url, QUICK).read("dataset.json", 1000)


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"never closed'},
        {"ETag": "'"},
        {"ETag": '"\x7f\x80"'},
        {"Content-Length": "9" * 5000},
        {"Content-Length": "-1"},
        {"Content-Range": f"bytes 0-{'9' * 5000}/{'9' * 5000}"},
        {"Content-Encoding": "gz\x1b[2Jip"},
        {"X": "x" * 100_000},
        {f"X-{i}": "x" for i in range(200)},
    ],
)
def test_whatever_a_server_writes_in_its_headers_the_answer_is_right_or_one_sentence(
    server: HostileServer, headers: dict[str, str]
) -> None:
    server.answers["dataset.json"] = [Answer(cut_bytes=500, headers=headers)] * (QUICK.attempts - 1)
    server.otherwise = Answer(headers=headers)
    told, sha256 = "", hashlib.sha256(b"x" * 1000).hexdigest()
    with limits():
        try:
            assert Remote(server.url, QUICK).read("dataset.json", 1000, sha256) == b"x" * 1000
        except DataError as error:
            told = str(error)
    assert told.isprintable()
