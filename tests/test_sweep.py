"""`tools/sweep.py`: one file, many runs, one table; stopped anywhere it goes on, and a failed run stops no other."""

import json
import math
import signal
import statistics
import subprocess
from pathlib import Path

import pytest
from launching import ROOT, environment, python, run
from rich.console import Console
from sweep_files import planned, written

from kws_dist import sweep_table
from kws_dist.config import parse
from kws_dist.errors import UsageError
from kws_dist.sweep import read_sweep
from kws_dist.sweep_array import array_script
from kws_dist.sweep_jobs import cores_of, is_finished
from kws_dist.sweep_table import Row, student_t, summarize

EXAMPLES = [path for path in sorted((ROOT / "configs" / "sweeps").glob("*.yaml")) if path.stem != "wandb"]


def environment_of_a_user() -> dict[str, str]:
    return {**environment(), "COLUMNS": "140"}


def started(file: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A sweep that is running; what it prints can be read while it does."""
    command = python("tools/sweep.py", file, *arguments)
    return subprocess.Popen(command, env=environment_of_a_user(), stdout=subprocess.PIPE, text=True)


def accuracy(out: Path, name: str, split: str) -> float:
    return json.loads((out / name / "result.json").read_text())[split]["accuracy"]


# What a file says


def test_a_grid_is_every_combination_named_by_what_differs(tiny_dataset: Path, tmp_path: Path) -> None:
    text = "grid: {config: [configs/bcresnet1.yaml, configs/quickstart.yaml], train.epochs: [1, 2], seed: [0, 7]}"
    sweep = planned(tmp_path, tiny_dataset, text)
    assert [cell.name for cell in sweep.cells] == [
        f"{config}-epochs={epochs}-seed{seed}"
        for config in ("bcresnet1", "quickstart")
        for epochs in (1, 2)
        for seed in (0, 7)
    ]
    last = sweep.cells[-1]
    assert (last.config.model.name, last.config.train.epochs, last.config.seed) == ("gru", 2, 7)
    assert last.config.run_dir == str(tmp_path / "out" / last.name)
    assert last.row == "quickstart-epochs=2"
    assert parse(last.words) == last.config


def test_cells_are_crossed_with_the_grid(tiny_dataset: Path, tmp_path: Path) -> None:
    text = "cells: [{name: as it is}, {train.nesterov: yes, train: {epochs: 3}}]\ngrid: {seed: [1, 2]}"
    sweep = planned(tmp_path, tiny_dataset, text)
    names = ["as_it_is-seed1", "as_it_is-seed2", "nesterov=yes-epochs=3-seed1", "nesterov=yes-epochs=3-seed2"]
    assert [cell.name for cell in sweep.cells] == names
    assert [cell.config.train.nesterov for cell in sweep.cells] == [False, False, True, True]
    assert sweep.cells[3].config.train.epochs == 3


@pytest.mark.parametrize("params", ["tau 3 dropout 0", "{tau: 3, dropout: 0}", "[tau, 3, dropout, 0]"])
def test_pairs_are_said_in_words_or_as_pairs(tiny_dataset: Path, tmp_path: Path, params: str) -> None:
    (cell,) = planned(tmp_path, tiny_dataset, f"cells: [{{model.params: {params}}}]").cells
    assert cell.config.model.params == {"tau": 3, "dropout": 0}
    assert cell.name == "tau=3_dropout=0"


@pytest.mark.parametrize(("word", "value"), [("no", False), ("off", False), ("yes", True), ("True", True)])
def test_switches_take_every_spelling_and_words_stay_words(
    tiny_dataset: Path, tmp_path: Path, word: str, value: bool
) -> None:
    text = f"grid: {{train.nesterov: [{word}], tracking.project: [{word}], train.weight_decay: [1e-3]}}"
    (cell,) = planned(tmp_path, tiny_dataset, text).cells
    assert cell.config.train.nesterov is value
    assert cell.config.tracking.project == word
    assert cell.config.train.weight_decay == 1e-3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gird: {seed: [1]}", "'gird'.*perhaps you meant 'grid'"),
        ("grid: {seed: 1}", "seed should be a list"),
        ("grid: {seed: []}", "seed should be a list"),
        ("grid: [1]", "grid should hold settings"),
        ("cells: {name: x}", "cells should be a list"),
        ("cells: [{run_dir: x}]", "run_dir is not a setting of a sweep"),
        (
            "cells: [{train.epochs: 3}]\ngrid: {train.epochs: [1]}",
            "train.epochs is in the grid and in one of the cells",
        ),
        ("cells: [{train.epochs: 3, train: {epochs: 4}}]", "train.epochs is there twice"),
        ("cells: [{seed: 1, seed: 2}]", "seed is there twice, again in line"),
        ("cells: [{name: a}, {name: a, train.epochs: 3}]", "two runs would be called 'a'"),
        ("cells: [{model.params: tau}]", "model.params should be pairs"),
        ("cells: [{model.params: tao 3}]", "tao=3: model 'bcresnet' has no parameter 'tao'"),
        ("cells: [{model.name: bcresnett}]", "no model is called 'bcresnett'"),
        ("cells: [{data.shards: ''}]", "data.shards is missing"),
        ("cells: [{data.shards: nowhere}]", "data.shards nowhere: there is no such folder"),
        ("grid: {seed: [1", "is not YAML"),
    ],
)
def test_mistakes_are_answered_before_anything_runs(tiny_dataset: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned(tmp_path, tiny_dataset, text)


def test_a_wrong_name_in_a_late_run_keeps_the_first_from_starting(tiny_dataset: Path, tmp_path: Path) -> None:
    file = written(tmp_path, tiny_dataset, "cells: [{name: good}, {name: bad, train.epohcs: 3}]", small=True)
    done = run(python("tools/sweep.py", file), expect=2)
    assert "--train.epochs" in done.stdout + done.stderr
    assert "that was the run bad" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_are_read(file: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    here = tmp_path / file.name
    here.write_text(file.read_text().replace("data/real10", str(tiny_dataset)))
    assert len(read_sweep(here, tmp_path).cells) > 2


# What the table says


@pytest.mark.parametrize(
    ("degrees", "t"),  # of the tables in textbooks
    [
        *((1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (5, 2.57058), (9, 2.26216), (10, 2.22814)),
        *((19, 2.09302), (28, 2.04841), (29, 2.04523), (30, 2.04227), (120, 1.97993), (10_000, 1.96020)),
    ],
)
def test_students_t_is_that_of_the_tables(degrees: int, t: float) -> None:
    assert student_t(degrees) == pytest.approx(t, abs=6e-6, rel=3e-6)
    assert student_t(degrees, 0.99) > student_t(degrees)


def test_students_t_is_exact_where_there_is_a_formula() -> None:
    for p in (0.5, 0.9, 0.95, 0.99):
        assert student_t(1, p) == pytest.approx(math.tan(math.pi * p / 2), rel=1e-12)
        assert student_t(2, p) == pytest.approx(p * math.sqrt(2 / (1 - p * p)), rel=1e-12)


def test_three_seeds_have_the_figures_of_a_pocket_calculator() -> None:
    summary = summarize([0.90, 0.92, 0.97])
    assert summary is not None
    assert summary.mean == pytest.approx(0.93)
    assert summary.std == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert summary.high == pytest.approx(0.93 + 4.30265 * 0.0360555 / math.sqrt(3), abs=1e-6)
    assert summary.low == pytest.approx(0.93 - 4.30265 * 0.0360555 / math.sqrt(3), abs=1e-6)
    bounded = summarize([0.90, 0.92, 0.97], least=0.0, most=1.0)
    assert bounded is not None
    assert bounded.high == 1.0


def test_one_run_has_no_spread_and_no_run_no_figures() -> None:
    one = summarize([0.5])
    assert one is not None
    assert (one.n, one.mean, one.std, one.low, one.high) == (1, 0.5, None, None, None)
    assert summarize([]) is None


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    accuracies, speed = summarize([0.91, 0.9321, 0.9512], most=1.0), summarize([1210.0, 1319.0, 1297.0])
    row = Row(
        "matchboxnet_3x2x64_plus-learning_rate=0.05", 3, ("a", "b", "c"), accuracies, accuracies, speed, 5_361_000
    )
    none = Row("other", 3, (), None, None, None, None)
    console = Console(width=80, record=True)
    sweep_table.show(console, [row, none], {"other-seed0": "it failed"})
    shown = console.export_text()
    for text in ("0.9311 ± 0.0206", "0.8799 to 0.9823", "1,275", "± 58", "5,361,000", "0/3", "it failed"):
        assert text in shown, shown
    assert max(map(len, shown.splitlines())) <= 80


# What is run


def test_a_sweep_runs_everything_and_names_what_failed(tiny_dataset: Path, tmp_path: Path) -> None:
    text = "cells: [{name: bad, train.accumulate: 5}, {name: good}]\ngrid: {seed: [0, 1]}"  # 12 clips in 5 parts
    file, out = written(tmp_path, tiny_dataset, text, small=True), tmp_path / "out"
    done = run(python("tools/sweep.py", file, "--jobs", "2"), expect=1)
    assert "bad-seed1" in done.stdout
    table = json.loads((out / "table.json").read_text())
    bad, good = table["rows"]
    assert (bad["planned"], bad["runs"], bad["test_accuracy"]) == (2, [], None)
    assert list(table["unfinished"]) == ["bad-seed0", "bad-seed1"]
    assert "accumulate" in table["unfinished"]["bad-seed0"]
    assert good["runs"] == ["good-seed0", "good-seed1"]
    for split in ("val", "test"):
        values = [accuracy(out, f"good-seed{seed}", split) for seed in (0, 1)]
        figures = good[f"{split}_accuracy"]
        assert figures["n"] == 2
        assert figures["mean"] == pytest.approx(statistics.fmean(values))
        assert figures["std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    result = json.loads((out / "good-seed0" / "result.json").read_text())
    assert good["parameters"] == result["parameters"]
    assert f"{result['parameters']:,}" in (out / "table.md").read_text()
    assert "- bad-seed0: " in (out / "table.md").read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_sweep_goes_on_and_runs_nothing_twice(tiny_dataset: Path, tmp_path: Path, how: signal.Signals) -> None:
    file = written(tmp_path, tiny_dataset, "grid: {seed: [0, 1]}", small=True)
    out = tmp_path / "out"
    process = started(file)
    assert process.stdout
    first = next(line for line in process.stdout if "1 of 2" in line)  # so the second has just begun
    process.send_signal(how)
    assert process.wait() == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert "run-seed0" in first
    if how != signal.SIGKILL:  # in good order, so there is a table of what is finished
        assert [row["runs"] for row in json.loads((out / "table.json").read_text())["rows"]] == [["run-seed0"]]
    before = {path: path.stat().st_mtime_ns for path in (out / "run-seed0").rglob("*")}
    plan = read_sweep(file)
    assert [is_finished(cell) for cell in plan.cells] == [True, False]
    said = run(python("tools/sweep.py", file)).stdout
    assert "2 runs" in said
    assert "1 of them finished" in said
    assert {path: path.stat().st_mtime_ns for path in (out / "run-seed0").rglob("*")} == before
    (row,) = json.loads((out / "table.json").read_text())["rows"]
    assert row["test_accuracy"]["n"] == 2


def test_tasks_of_an_array_run_one_cell_each_and_the_table_comes_afterwards(tiny_dataset: Path, tmp_path: Path) -> None:
    file = written(tmp_path, tiny_dataset, "grid: {seed: [0, 1]}", small=True)
    sweep = read_sweep(file)
    again = python("tools/sweep.py", file)
    text = array_script(sweep, [0, 1], again, options=["--time=1:00:00"], jobs=0)
    assert "#SBATCH --array=0,1\n" in text
    assert "#SBATCH --time=1:00:00\n" in text
    assert "--array=1%3\n" in array_script(sweep, [1], again, options=[], jobs=3)
    script = tmp_path / "array.sh"
    script.write_text(text)
    run(["bash", "-n", str(script)])
    task = subprocess.run(
        ["bash", str(script)], env={**environment(), "SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, check=False
    )
    assert task.returncode == 0, task.stderr
    assert [is_finished(cell) for cell in sweep.cells] == [False, True]
    assert "run-seed0" in run([*again, "--table_only"], expect=1).stdout
    assert json.loads((tmp_path / "out" / "table.json").read_text())["unfinished"] == {"run-seed0": "not begun"}
    shown = run([*again, "--slurm", "--dry_run"]).stdout
    assert "#SBATCH --array=0\n" in shown
    assert "from 0 to 1" in run([*again, "--task_index", "2"], expect=2).stderr


def test_slurm_where_there_is_none_is_said(tiny_dataset: Path, tmp_path: Path) -> None:
    file = written(tmp_path, tiny_dataset, "grid: {seed: [0, 1]}", small=True)
    bare = {**environment(), "PATH": str(tmp_path)}
    command = python("tools/sweep.py", file, "--slurm")
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no sbatch here" in done.stderr
    assert "sweep.sbatch, which is written" in done.stderr


def test_cores_are_shared_out() -> None:
    assert [cores_of(slot, 2, [3, 4, 5, 6]) for slot in (0, 1)] == [[3, 4], [5, 6]]
    assert [cores_of(slot, 2, [0, 1, 2]) for slot in (0, 1)] == [[0], [1, 2]]
    assert [cores_of(slot, 3, [8, 9]) for slot in (0, 1, 2)] == [[8], [9], [8]]
    assert cores_of(0, 1, [0, 1]) == [0, 1]
