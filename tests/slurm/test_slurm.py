"""`slurm/` and `tools/sweep.py --slurm` on a real SLURM of two nodes: what is ended from outside goes on by itself."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from launching import ROOT, SMALL, python
from slurm_cluster import Cluster, missing_programs, wait_for

from kws_dist.draw_log import difference, problem, read_draws

pytestmark = pytest.mark.slurm

ENDLESS = (*SMALL, "--train.epochs", "1000000", "--train.eval_every_epochs", "100", "--train.log_every_steps", "10")
LONG = (*ENDLESS, "--train.max_minutes", "0.08")
"""Five seconds of training on any machine, all jobs together: long enough to be interrupted."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one processor each. KWS_REQUIRE_SLURM=1, as in CI, makes it an error that no SLURM is installed."""
    if missing := missing_programs():
        why = f"there is no {', '.join(missing)} here: apt-get install slurm-wlm munge"
        if os.environ.get("KWS_REQUIRE_SLURM"):
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="kws-slurm-"))  # pytest's folders are too long for the name of a socket
    one = Cluster(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder)


@dataclass
class Training:
    """A job of `slurm/train.sh`; all its starts write into one log and one run folder."""

    cluster: Cluster
    run: Path
    settings: tuple[str | Path, ...]
    options: tuple[str, ...] = ()
    number: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.run.with_name("train.log")
        arguments = (*self.settings, "--run_dir", self.run, "--tracking.draws")
        self.number = submit(self.cluster, self.log, *self.options, "slurm/train.sh", *arguments)

    def has_reached(self, step: int) -> bool:
        """Whether so many steps are taken down in the metrics."""
        return last_step(self.run) >= step

    def wait_until_training(self, step: int = 10) -> None:
        wait_for(lambda: self.has_reached(step), lambda: f"step {step}: {self.said()}")

    def wait_until_over(self) -> str:
        """Wait until SLURM is done with the job; returns the state it has given it."""
        wait_for(lambda: self.number not in self.cluster.jobs(), lambda: f"the end: {self.said()}")
        return fact(self.cluster, self.number, "JobState")

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else f"no {self.log}"


def submit(cluster: Cluster, log: Path, *command: str | Path) -> str:
    options = ("--parsable", "--cpus-per-task=1", f"--output={log}")
    return cluster.command("sbatch", *options, *command)


def fact(cluster: Cluster, job: str, name: str) -> str:
    """Return what SLURM knows of a job, such as JobState or Restarts."""
    found = re.search(rf"\b{name}=(\S+)", cluster.command("scontrol", "show", "job", "--oneliner", job))
    assert found
    return found[1]


def last_step(run: Path) -> int:
    """Return the last step in the metrics of a run, 0 before there is any."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1])["step"] if whole else 0


def status(run: Path) -> dict[str, object]:
    return json.loads((run / "state.json").read_text())


def assert_whole(run: Path, *, begins: int) -> None:
    """The run is finished, no clip was repeated or missed, and so many jobs took part in it."""
    assert status(run)["status"] == "finished"
    stretches = read_draws(run)
    assert problem(stretches, steps=int(str(status(run)["step"]))) == ""
    assert len(stretches) == begins
    assert json.loads((run / "result.json").read_text())["test"]["n"] == 9
    assert not (run / "stop").exists()


def test_two_nodes_train_one_model(cluster: Cluster, tiny_dataset: Path, tmp_path: Path) -> None:
    settings = ("--data.shards", tiny_dataset, *SMALL)
    job = Training(cluster, tmp_path / "run", settings, ("--nodes=2",))
    assert job.wait_until_over() == "COMPLETED", job.said()
    assert_whole(job.run, begins=1)
    assert [(stretch.world, len(stretch.steps)) for stretch in read_draws(job.run)] == [(2, 6)]
    for node in ("n1", "n2"):
        assert f"launch task StepId={job.number}.0" in (cluster.folder / f"slurmd-{node}.log").read_text()


def test_a_job_whose_time_is_nearly_over_saves_and_goes_on_by_itself_until_the_user_stops_it(
    cluster: Cluster, tiny_dataset: Path, tmp_path: Path
) -> None:
    job = Training(cluster, tmp_path / "run", ("--data.shards", tiny_dataset, *ENDLESS))
    job.wait_until_training()
    cluster.command("scontrol", "update", f"JobId={job.number}", "TimeLimit=2")  # so less is left than 120 s
    wait_for(lambda: fact(cluster, job.number, "Restarts") == "1", lambda: f"a requeue: {job.said()}")
    cluster.command("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    assert status(job.run)["status"] == "stopped"
    saved = int(str(status(job.run)["step"]))
    job.wait_until_training(saved + 20)
    (job.run / "stop").touch()
    assert job.wait_until_over() == "COMPLETED", job.said()
    first, second = read_draws(job.run)
    assert second.begin == saved == max(first.steps) + 1
    assert problem([first, second], steps=int(str(status(job.run)["step"]))) == ""
    assert status(job.run)["status"] == "stopped"
    said = job.said()
    assert "the time is nearly over" in said
    assert "start 1" in said
    assert "start 2" in said
    assert not (job.run / "stop").exists()


def test_a_job_that_has_to_make_room_for_another_saves_and_goes_on_afterwards(
    cluster: Cluster, tiny_dataset: Path, tmp_path: Path
) -> None:
    job = Training(cluster, tmp_path / "run", ("--data.shards", tiny_dataset, *ENDLESS), ("--nodelist=n1",))
    job.wait_until_training()
    other = submit(cluster, tmp_path / "other.log", "--partition=urgent", "--nodelist=n1", "--wrap=true")
    wait_for(lambda: other not in cluster.jobs(), job.said)
    assert fact(cluster, other, "JobState") == "COMPLETED"
    saved = status(job.run)
    assert saved["status"] == "stopped"
    (stretch,) = read_draws(job.run)
    assert saved["step"] == max(stretch.steps) + 1
    wait_for(lambda: len(read_draws(job.run)) == 2, job.said)
    cluster.command("scancel", job.number)
    job.wait_until_over()
    assert read_draws(job.run)[1].begin == saved["step"]


def test_a_job_that_is_queued_again_from_outside_goes_on(cluster: Cluster, tiny_dataset: Path, tmp_path: Path) -> None:
    job = Training(cluster, tmp_path / "run", ("--data.shards", tiny_dataset, *LONG))
    job.wait_until_training()
    cluster.command("scontrol", "requeue", job.number)
    assert job.wait_until_over() == "COMPLETED", job.said()
    assert fact(cluster, job.number, "Restarts") == "1"
    assert_whole(job.run, begins=2)
    first, second = read_draws(job.run)
    assert second.begin == max(first.steps) + 1, "it had time to save"


def test_a_cancelled_job_saves_and_does_not_come_back(cluster: Cluster, tiny_dataset: Path, tmp_path: Path) -> None:
    job = Training(cluster, tmp_path / "run", ("--data.shards", tiny_dataset, *ENDLESS))
    job.wait_until_training()
    cluster.command("scancel", job.number)
    assert job.wait_until_over() == "CANCELLED", job.said()
    assert fact(cluster, job.number, "Restarts") == "0"
    (stretch,) = read_draws(job.run)
    assert status(job.run)["status"] == "stopped"
    assert status(job.run)["step"] == max(stretch.steps) + 1


def test_a_training_that_fails_fails_the_job_and_is_not_queued_again(
    cluster: Cluster, tiny_dataset: Path, tmp_path: Path
) -> None:
    wrong = ("--data.shards", tiny_dataset, *SMALL, "--train.accumulate", "5")  # 12 clips in 5 parts
    job = Training(cluster, tmp_path / "run", wrong)
    assert job.wait_until_over() == "FAILED"
    assert "--train.accumulate" in job.said()
    assert fact(cluster, job.number, "Restarts") == "0"


def test_an_array_trains_seeds_and_each_goes_on_by_itself(cluster: Cluster, tiny_dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "data": {"shards": str(tiny_dataset)}}))
    arguments = ("--config", config, *LONG, "--tracking.draws")
    array = submit(cluster, tmp_path / "%a.log", "--array=3,5", "slurm/train.sh", *arguments)
    runs = {seed: tmp_path / f"run-seed{seed}" for seed in (3, 5)}
    said = lambda: "".join(file.read_text() for file in tmp_path.glob("*.log"))  # noqa: E731
    wait_for(lambda: last_step(runs[5]) >= 10, said)
    # the last task of an array has its number: if the script named it wrongly, both would be queued again
    cluster.command("scancel", "--signal=USR1", "--batch", f"{array}_5")
    wait_for(lambda: not cluster.jobs(), said)
    assert [fact(cluster, f"{array}_{seed}", "Restarts") for seed in (3, 5)] == ["0", "1"]
    for seed, begins in ((3, 1), (5, 2)):
        assert_whole(runs[seed], begins=begins)
        assert yaml.safe_load((runs[seed] / "config.yaml").read_text())["seed"] == seed
    assert difference(read_draws(runs[3]), read_draws(runs[5])) != ""


def test_a_training_goes_on_when_a_node_that_died_is_back(cluster: Cluster, tiny_dataset: Path, tmp_path: Path) -> None:
    job = Training(cluster, tmp_path / "run", ("--data.shards", tiny_dataset, *LONG), ("--nodes=2",))
    job.wait_until_training()
    cluster.kill_node("n2")
    # the rank that is left fails long before SLURM, which asks its nodes now and then, can know why
    wait_for(lambda: "n1: task 0: Exited with exit code" in job.said(), job.said)
    cluster.command("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=power")
    try:
        wait_for(lambda: fact(cluster, job.number, "Restarts") == "1", lambda: f"a requeue: {job.said()}")
    finally:
        cluster.start_node("n2")
    assert job.wait_until_over() == "COMPLETED", job.said()
    assert_whole(job.run, begins=2)


def test_an_array_makes_the_same_shards_as_one_process_and_after_a_failure_only_what_is_missing(
    cluster: Cluster, tiny_archive: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out, logs = tmp_path / "shards", f"--output={tmp_path}/%A_%a.log"
    source = ("--", "speech-commands", "--archive", tiny_archive, "--shard_clips", "8", "--out", out)
    said = lambda: "".join(file.read_text() for file in tmp_path.glob("*.log"))  # noqa: E731
    hold = cluster.command("slurm/prepare.sh", "2", "--cpus-per-task=1", logs, "--hold", *source)
    array, merge = re.findall(r"job (\d+)", hold)
    cluster.command("scancel", f"{array}_1")
    cluster.command("scontrol", "release", array, merge)
    wait_for(lambda: not cluster.jobs(), said)
    assert fact(cluster, merge, "JobState") == "CANCELLED"
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(made) == 4
    cluster.command("slurm/prepare.sh", "2", "--cpus-per-task=1", logs, *source)
    wait_for(lambda: not cluster.jobs(), said)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    expected = {path.name: path.read_bytes() for path in tiny_dataset.iterdir() if path.name != "dataset.json"}
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "dataset.json"} == expected
    digests = [json.loads((folder / "dataset.json").read_text())["digest"] for folder in (out, tiny_dataset)]
    assert digests[0] == digests[1]
    assert "finished already" in cluster.command("slurm/prepare.sh", "2", *source)


def test_a_sweep_runs_as_an_array_as_it_was_submitted_and_its_table_comes_afterwards(
    cluster: Cluster, tiny_dataset: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "some.yaml", tmp_path / 'my "50%" sweep'
    flags = " ".join(SMALL).removeprefix("--").split(" --")
    settings = dict(flag.split(maxsplit=1) for flag in flags) | {"data.shards": str(tiny_dataset)}
    file.write_text(yaml.safe_dump({"out": str(out), "settings": settings, "grid": {"seed": [0, 1]}}))
    told = cluster.command(*python("tools/sweep.py", file, "--slurm", "--sbatch_options=-t 10 --hold --comment='a b'"))
    assert "makes the table" in told
    file.write_text(file.read_text().replace("- 0", "- 2"))
    cluster.command("scontrol", "release", re.findall(r"job (\d+) runs", told)[0])
    wait_for((out / "table.json").exists, lambda: "".join(log.read_text() for log in out.glob("*.log")))
    table = json.loads((out / "table.json").read_text())
    assert [row["runs"] for row in table["rows"]] == [["run-seed0", "run-seed1"]]
    assert table["unfinished"] == {}
    assert "see" in (out / "slurm-0.log").read_text()


def test_wrong_use_is_said_at_once(cluster: Cluster, tmp_path: Path) -> None:
    job = Training(cluster, tmp_path / "run", ("--data.shard", "nowhere"))
    elsewhere = submit(cluster, tmp_path / "elsewhere.log", f"--chdir={tmp_path}", ROOT / "slurm" / "train.sh")
    assert job.wait_until_over() == "FAILED"
    assert "--data.shards" in job.said()
    wait_for(lambda: elsewhere not in cluster.jobs(), "the end")
    assert "submit in the folder of the repository" in (tmp_path / "elsewhere.log").read_text()
