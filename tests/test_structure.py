"""The lie of the land: imports run one way, and nothing reads a file in a way that could run it."""

import ast
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "kws_dist"

LEAVES = {"errors", "files", "keyed"}
"""Modules that every folder may import; they import only each other."""

MAY_IMPORT = {
    "corpus": set[str](),
    "shards": {"corpus"},
    "data": {"shards", "frontend"},
    "frontend": set[str](),
    "models": set[str](),
    "evaluation": {"data", "frontend", "models"},
    "inference": {"frontend", "models", "training"},
}
"""Folder to folders, besides itself and the leaves. `training` may import all but `inference`, and `inference` only
what reads a run in `training`."""

OF_TRAINING_FOR_INFERENCE = {"kws_dist.training.checkpoint", "kws_dist.training.rebuild"}

BELOW_SETTINGS = {"corpus", "shards", "data", "frontend", "models"}
"""What `config`, `run`, `tracking` and the other modules beside the folders may import, besides each other."""

WITHOUT_TORCH = ("corpus", "shards")
KNOWS_RANKS = ("kws_dist/training/", "kws_dist/evaluation/evaluate.py", "launch/")
RUNS_WHAT_IT_READS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def sources(*folders: str) -> dict[str, ast.Module]:
    """The parsed files of the folders, by path from the root."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


CODE = sources(PACKAGE, "launch", "tools")
MODULES = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in CODE}


def imports(path: str, tree: ast.AST) -> Iterator[str]:
    """The full names of what a file imports, at any depth; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.split("/")[: -node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def parts_imported(path: str, tree: ast.AST) -> set[str]:
    """The folders of the package, and the modules beside them, that a file imports: the first part of their names."""
    names = {name for name in imports(path, tree) if name in MODULES and is_below(name, PACKAGE)}
    return {name.split(".")[1] for name in names if "." in name}


def allowed(part: str) -> set[str]:
    """What a folder, or a module beside the folders, may import."""
    beside = {name.split(".")[1] for name, path in MODULES.items() if path.count("/") == 1 and "." in name}
    beside -= set(folders())
    if part in LEAVES:
        return LEAVES
    if part == "training":
        return beside | set(folders()) - {"inference"}
    if part in beside:
        return beside | BELOW_SETTINGS
    may = MAY_IMPORT[part] | LEAVES | {part}
    if part == "inference":
        return may | beside
    return may - {"keyed"} if part in WITHOUT_TORCH else may


def folders() -> list[str]:
    return sorted({path.split("/")[1] for path in CODE if path.startswith(PACKAGE) and path.count("/") > 1})


def test_every_folder_has_its_line_in_the_table() -> None:
    assert set(folders()) == {*MAY_IMPORT, "training"}


@pytest.mark.parametrize("path", [path for path in CODE if path.startswith(PACKAGE)])
def test_imports_run_one_way(path: str) -> None:
    names = path.removesuffix(".py").split("/")
    if names[1:] == ["__init__"]:
        assert parts_imported(path, CODE[path]) == set()
    else:
        assert parts_imported(path, CODE[path]) - allowed(names[1]) == set()


def test_using_a_model_needs_nothing_that_trains_one() -> None:
    for path in CODE:
        if path.startswith("kws_dist/inference/"):
            of_training = {name for name in imports(path, CODE[path]) if is_below(name, "kws_dist.training")}
            modules = {name for name in of_training if name in MODULES} - {"kws_dist.training"}
            assert modules <= OF_TRAINING_FOR_INFERENCE, path


def test_entry_points_import_the_package_and_not_each_other() -> None:
    for path in CODE:
        if not path.startswith(PACKAGE):
            ours = {name.split(".")[0] for name in imports(path, CODE[path])} & {"launch", "tools", "tests"}
            assert ours == set(), path


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The file as it runs: without what is imported only for its types."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else node

    return Drop().visit(ast.parse(ast.unparse(tree)))


def functions(path: str) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(CODE[path]) if isinstance(node, ast.FunctionDef))


def lines_of(function: ast.FunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_no_function_of_training_hides_the_way_and_the_loop_fits_on_a_screen() -> None:
    training = [path for path in CODE if path.startswith("kws_dist/training/")]
    too_long = {f"{path}:{one.name}": lines_of(one) for path in training for one in functions(path)}
    assert {name: lines for name, lines in too_long.items() if lines >= 60} == {}
    assert lines_of(next(one for one in functions("kws_dist/training/loop.py") if one.name == "run")) <= 24


def test_no_module_needs_itself() -> None:
    needs = {
        # `from kws_dist.models import gru`, in kws_dist/models/__init__.py, needs only the latter.
        name: set(imports(path, without_type_checking(CODE[path]))) & set(MODULES) - {name}
        for name, path in MODULES.items()
    }
    TopologicalSorter(needs).prepare()


def reachable(name: str) -> set[str]:
    """All modules of the package that importing one brings with it, itself included."""
    seen, todo = set[str](), [name]
    while todo:
        module = todo.pop()
        if module in MODULES and module not in seen:
            seen.add(module)
            todo += [*imports(MODULES[module], CODE[MODULES[module]]), module.rpartition(".")[0]]
    return seen


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_clips_and_shards_can_be_had_without_torch(folder: str) -> None:
    for module in [name for name in MODULES if is_below(name, f"{PACKAGE}.{folder}")]:
        for needed in reachable(module):
            heavy = {name.split(".")[0] for name in imports(MODULES[needed], CODE[MODULES[needed]])}
            assert not heavy & {"torch", "torchaudio", "accelerate"}, f"{module} needs {needed}"


def knows_ranks(path: str, tree: ast.Module) -> list[str]:
    names = [*imports(path, tree), *(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))]
    return [name for name in names if is_below(name, "accelerate") or is_below(name, "torch.distributed")]


def runs_what_it_reads(path: str, tree: ast.Module) -> list[str]:
    """Ways of reading a file that could run it, or write where it says."""
    found = [name for name in imports(path, tree) if name.split(".")[0] in RUNS_WHAT_IT_READS]
    found += [name for name in imports(path, tree) if name.startswith("yaml.") or name == "torch.load"]
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        text = ast.unparse(call)
        name = ast.unparse(call.func)
        base_loader = any(ast.unparse(keyword) == "Loader=yaml.BaseLoader" for keyword in call.keywords)
        if (
            name == "torch.load"
            or name.rpartition(".")[2] in ("extractall", "extract", "unpack_archive")
            or (name.startswith("yaml.") and "load" in name and not (name == "yaml.load" and base_loader))
            or any(keyword.arg in ("allow_pickle", "weights_only") for keyword in call.keywords)
        ):
            found.append(text)
    return found


def catches_everything(path: str, tree: ast.Module) -> list[str]:
    return [
        f"{path}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


Scan = Callable[[str, ast.Module], list[str]]


def test_only_training_evaluation_and_entry_points_know_of_ranks() -> None:
    assert [path for path, tree in CODE.items() if knows_ranks(path, tree) and not path.startswith(KNOWS_RANKS)] == []


@pytest.mark.parametrize("scan", [runs_what_it_reads, catches_everything])
def test_no_file_read_can_run_and_no_error_is_caught_unseen(scan: Scan) -> None:
    assert {path: found for path, tree in CODE.items() if (found := scan(path, tree))} == {}


@pytest.mark.parametrize(
    ("scan", "code"),
    [
        (knows_ranks, "from accelerate import Accelerator"),
        (knows_ranks, "import torch.distributed as dist"),
        (knows_ranks, "from torch import distributed"),
        (knows_ranks, "import torch\nif torch.distributed.is_initialized(): pass"),
        (runs_what_it_reads, "def f():\n  import pickle"),
        (runs_what_it_reads, "from pickle import loads"),
        (runs_what_it_reads, "torch.load(path)"),
        (runs_what_it_reads, "torch.load(path, weights_only=True)"),
        (runs_what_it_reads, "from torch import load"),
        (runs_what_it_reads, "np.load(path, allow_pickle=True)"),
        (runs_what_it_reads, "yaml.load(text, Loader=yaml.SafeLoader)"),
        (runs_what_it_reads, "yaml.safe_load(text)"),
        (runs_what_it_reads, "from yaml import safe_load"),
        (runs_what_it_reads, "tar.extractall(folder)"),
        (runs_what_it_reads, "shutil.unpack_archive(path)"),
        (catches_everything, "try: pass\nexcept: pass"),
    ],
)
def test_the_scans_see_what_they_are_for(scan: Scan, code: str) -> None:
    assert scan("some.py", ast.parse(code))


@pytest.mark.parametrize(
    ("path", "code", "seen"),
    [
        ("kws_dist/data/a.py", "from kws_dist.training.step import TrainStep", "training"),
        ("kws_dist/data/a.py", "from kws_dist import config", "config"),
        ("kws_dist/data/a.py", "from kws_dist.config import Config", "config"),
        ("kws_dist/data/a.py", "def f():\n  import kws_dist.tracking", "tracking"),
        ("kws_dist/data/a.py", "from ..run import RunFolder", "run"),
        ("kws_dist/data/a.py", "from .. import display", "display"),
    ],
)
def test_every_way_of_importing_is_seen(path: str, code: str, seen: str) -> None:
    assert parts_imported(path, ast.parse(code)) == {seen}
    assert seen not in allowed("data")
