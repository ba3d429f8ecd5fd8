"""Sweeps: what counts as done, what would make the table wrong, and names that files cannot have."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from launching import SMALL, environment, python, run
from sweep_files import planned, written

from kws_dist.config import to_yaml
from kws_dist.errors import UsageError
from kws_dist.sweep import Cell, read_sweep
from kws_dist.sweep_array import array_script
from kws_dist.sweep_jobs import is_finished, why_not_to_start, why_open


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of one run, which is finished."""
    folder = tmp_path_factory.mktemp("trained")
    run(python("tools/sweep.py", written(folder, tiny_dataset, "cells: [{name: one}]", small=True)))
    return folder


def asked(trained: Path, folder: Path, shards: Path, **settings: object) -> Cell:
    """The run of `trained`, in a sweep that now asks for these shards and settings."""
    text = f"cells: [{{name: one, {', '.join(f'train.{name}: {value}' for name, value in settings.items())}}}]"
    (cell,) = read_sweep(written(folder, shards, text, small=True), trained / "out").cells
    return cell


# What counts as done


OTHER = [("epochs", 4), ("steps", 5), ("max_minutes", 0.5), ("patience_epochs", 2)]
OTHER += [("accumulate", 2), ("eval_every_epochs", 2), ("eval_every_steps", 1)]


@pytest.mark.parametrize(("name", "value"), OTHER)
def test_a_run_of_another_length_or_with_what_makes_another_result_is_not_done_and_not_gone_on_with(
    trained: Path, tiny_dataset: Path, tmp_path: Path, name: str, value: float
) -> None:
    assert is_finished(asked(trained, tmp_path, tiny_dataset))
    cell = asked(trained, tmp_path, tiny_dataset, **{name: value})
    assert f"finished with train.{name} " in why_open(cell)
    assert why_not_to_start(cell) == why_open(cell)


def test_what_changes_no_result_leaves_a_run_done(trained: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    assert is_finished(asked(trained, tmp_path, tiny_dataset, log_every_steps=2, save_every_steps=1, job_minutes=9))


def test_a_run_of_which_more_was_done_than_asked_for_is_not_done(
    trained: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """As one that a longer run was cut down to: config.yaml has the settings of its last job alone."""
    shutil.copytree(trained / "out", tmp_path / "out")
    asked_for = asked(trained, tmp_path, tiny_dataset).config
    words = ("--data.shards", tiny_dataset, *SMALL, "--run_dir", asked_for.run_dir.replace(str(trained), str(tmp_path)))
    run(python("launch/train.py", *words, "--train.epochs", "4"))
    state = tmp_path / "out" / "one" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_bytes()), "status": "stopped"}))
    assert "begun with train.epochs 4, not 3" in why_not_to_start(asked(tmp_path, tmp_path, tiny_dataset))
    run(python("launch/train.py", *words))
    assert "finished with 8 steps, not 6" in why_open(asked(tmp_path, tmp_path, tiny_dataset))


@pytest.mark.parametrize(("steps", "is_done"), [(4, True), (8, False)])
def test_a_run_may_be_shorter_where_it_may_end_early(
    trained: Path, tiny_dataset: Path, tmp_path: Path, steps: int, is_done: bool
) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    cell = asked(tmp_path, tmp_path, tiny_dataset, patience_epochs=2)
    (tmp_path / "out" / "one" / "config.yaml").write_text(to_yaml(cell.config))
    result = tmp_path / "out" / "one" / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_bytes()), "steps": steps}))
    assert is_finished(cell) == is_done


def test_a_run_on_other_data_is_not_done_and_the_same_data_elsewhere_are_the_same(
    trained: Path, tiny_dataset: Path, other_dataset: Path, tmp_path: Path
) -> None:
    assert "finished with other data" in why_open(asked(trained, tmp_path, other_dataset))
    moved = tmp_path / "moved"
    shutil.copytree(tiny_dataset, moved)
    assert is_finished(asked(trained, tmp_path, moved))


def test_a_result_that_does_not_name_its_data_is_known_by_its_folder(
    trained: Path, tiny_dataset: Path, other_dataset: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(trained, older)
    file = older / "out" / "one" / "result.json"
    result = json.loads(file.read_bytes())
    del result["dataset_digest"]
    file.write_text(json.dumps(result))
    assert is_finished(asked(older, tmp_path, tiny_dataset))
    assert "finished with other data" in why_open(asked(older, tmp_path, other_dataset))


def test_a_run_on_other_data_is_named_and_in_no_mean(trained: Path, other_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained / "out" / "one", out / "one-seed0")
    text = "cells: [{name: one}, {name: shorter, train.epochs: 2}]\ngrid: {seed: [0]}"
    done = run(python("tools/sweep.py", written(tmp_path, other_dataset, text, small=True)), expect=1)
    table = json.loads((out / "table.json").read_text())
    assert [row["runs"] for row in table["rows"]] == [[], ["shorter-seed0"]]
    assert "was trained on another dataset" in table["unfinished"]["one-seed0"]
    assert "was trained on another dataset" in done.stdout


def test_a_run_of_another_length_is_left_as_it_is_and_the_others_run(
    trained: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """A longer one would be extended: down to the end of one schedule, then back into the middle of another."""
    for name in ("longer-seed0", "shorter-seed0"):
        shutil.copytree(trained / "out" / "one", tmp_path / "out" / name)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    text = "cells: [{name: longer, train.epochs: 4}, {name: shorter, train.epochs: 2}]\ngrid: {seed: [0, 1]}"
    file = written(tmp_path, tiny_dataset, text, small=True)
    said = run(python("tools/sweep.py", file), expect=1).stdout
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["runs"] for row in table["rows"]] == [["longer-seed1"], ["shorter-seed1"]]
    assert table["unfinished"].keys() == {"longer-seed0", "shorter-seed0"}
    assert "finished with train.epochs 3, not 2" in table["unfinished"]["shorter-seed0"]
    assert "not run: longer-seed0: finished with train.epochs 3, not 4: remove " in said
    assert {path: path.stat().st_mtime_ns for path in before if path.name != "out"} == before
    assert "not run: longer-seed0" in run(python("tools/sweep.py", file, "--task_index", "0"), expect=1).stdout
    assert "not run: longer-seed0" in run(python("tools/sweep.py", file, "--dry_run"), expect=1).stdout


def test_a_run_of_which_nothing_is_trained_yet_may_become_longer(
    trained: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    (tmp_path / "out" / "one" / "state.json").write_text('{"status": "stopped", "step": 0}')
    assert not why_not_to_start(asked(tmp_path, tmp_path, tiny_dataset, epochs=4))


def test_a_damaged_folder_is_no_end_of_the_others(trained: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    cell = asked(tmp_path, tmp_path, tiny_dataset)
    (tmp_path / "out" / "one" / "state.json").write_text("{")
    assert "state.json is damaged" in why_open(cell)


# What would make a table wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "cells: [{name: a b, seed: 0}, {name: a_b, seed: 1, train.epochs: 3}]",
            "a_b-seed0 and a_b-seed1 would be one row of the table, and differ in train.epochs: give them other names",
        ),
        ("cells: [{name: a}, {name: b}]", "a and b have the same settings"),
        ("grid: {seed: [0, 00]}", "run-seed0 and run-seed00 have the same settings"),
        ("cells: [{train.epochs: 30}, {train.learning_rate: 0.1}]", "have the same settings"),
        *((f"cells: [{{name: '{name}'}}]", "a run cannot be called") for name in ("..", ".", "-")),
        ("cells: [{name: '..', seed: 1}]", r"a run cannot be called '\.\.'"),
    ],
)
def test_what_would_make_the_table_wrong_is_refused(tiny_dataset: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        planned(tmp_path, tiny_dataset, text)
    assert "\n" not in str(caught.value)


def test_seeds_of_two_cells_may_share_a_row(tiny_dataset: Path, tmp_path: Path) -> None:
    cells = planned(tmp_path, tiny_dataset, "cells: [{name: a, seed: 0}, {name: a, seed: 1}]").cells
    assert [(cell.name, cell.row) for cell in cells] == [("a-seed0", "a"), ("a-seed1", "a")]


def test_shards_that_are_not_finished_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(tiny_dataset, begun)
    (begun / "dataset.json").unlink()
    with pytest.raises(UsageError, match=r"data\.shards .*begun is not finished"):
        planned(tmp_path, begun, "grid: {seed: [0]}")


# Names of files


def test_long_names_are_cut_and_stay_different(tiny_dataset: Path, tmp_path: Path) -> None:
    long = "ä" * 300
    text = f"cells: [{{name: {long}}}, {{name: {long}b, train.epochs: 3}}]\ngrid: {{seed: [0, -1]}}"
    cells = planned(tmp_path, tiny_dataset, text).cells
    assert len({cell.name for cell in cells}) == 4
    assert len({cell.row for cell in cells}) == 2
    assert all(len(cell.row.encode()) <= 200 for cell in cells)
    assert cells[0].name == f"{cells[0].row}-seed0"
    assert cells[1].name == f"{cells[0].row}-seed-1"
    (tmp_path / f"{cells[0].name}.log.tmp").touch()


def test_a_run_that_cannot_be_started_is_named_and_the_others_run(tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "bad-seed0.log").mkdir(parents=True)
    file = written(
        tmp_path, tiny_dataset, "cells: [{name: bad}, {name: good, train.epochs: 2}]\ngrid: {seed: [0]}", small=True
    )
    done = run(python("tools/sweep.py", file), expect=1)
    table = json.loads((out / "table.json").read_text())
    assert table["unfinished"] == {"bad-seed0": f"{out}/bad-seed0.log: Is a directory"}
    assert [row["runs"] for row in table["rows"]] == [[], ["good-seed0"]]
    assert "1 of 2  bad-seed0: " in done.stdout


# What waits in a queue


def test_waiting_tasks_run_what_was_submitted_however_the_file_is_edited(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(tiny_dataset)
    (tmp_path / "plans").mkdir()
    file = written(tmp_path / "plans", Path("shards"), "cells: [{name: a}, {name: b, train.epochs: 1}]", small=True)
    file.write_text(re.sub("out: .*", "out: 100% of it", file.read_text(), count=1))
    submit = python("tools/sweep.py", "plans/some.yaml", "--slurm")
    bare = {**environment(), "PATH": str(tmp_path)}
    assert subprocess.run(submit, env=bare, cwd=tmp_path, check=False).returncode == 2  # there is no sbatch
    out = tmp_path / "100% of it"
    script = (out / "sweep.sbatch").read_text()
    file.write_text(file.read_text().replace("cells: [", "cells: [{name: new, train.epochs: 2}, "))
    assert subprocess.run(submit, env=bare, cwd=tmp_path, check=False).returncode == 2
    assert (out / "sweep.sbatch").read_text() != script
    task = {**environment(), "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run(["bash", "-c", script], env=task, cwd=tmp_path, check=True)
    assert [path.parent.name for path in out.glob("*/result.json")] == ["a"]


def test_what_sbatch_is_given_is_quoted_as_it_reads_it(tiny_dataset: Path, tmp_path: Path) -> None:
    sweep = replace(planned(tmp_path, tiny_dataset, "grid: {seed: [0, 1]}"), out=Path('my "50%" sweep'))
    text = array_script(sweep, [0], ["x"], options=["-p", "gpu", "--comment=a #1"], jobs=0)
    assert '#SBATCH "--output=my \\"50%%\\" sweep/slurm-%a.log"\n' in text
    assert '#SBATCH "--job-name=sweep-my \\"50%\\" sweep"\n' in text
    assert '#SBATCH -p gpu "--comment=a #1"\n' in text
