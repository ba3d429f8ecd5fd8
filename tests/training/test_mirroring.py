"""What a run leaves to look at and listen to, in its folder and where its numbers go."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from jobs import a_job
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_file import forget_who_is_logged_in, only_run

from kws_dist.evaluation.evaluate import Evaluation
from kws_dist.evaluation.worst import WorstClip
from kws_dist.tracking import Tracker, sinks_of
from kws_dist.training.job import Job
from kws_dist.training.mirroring import mirror_checkpoint, mirror_results
from kws_dist.training.parts import evaluator_of
from kws_dist.training.stop import StopRequest

MIRRORS = ("--tracking.wandb", "offline", "--tracking.tensorboard", "--tracking.checkpoints")


class Recorder:
    """A sink that remembers what it was called with."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.seen.append((name, *given))


@pytest.fixture(autouse=True)
def _stranger_to_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_who_is_logged_in(monkeypatch, tmp_path)


@pytest.fixture
def job(tiny_dataset: Path, tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "run").mkdir()
    with a_job(tiny_dataset, "--run_dir", tmp_path / "run", *MIRRORS) as (job, _):
        yield job


def results_of(job: Job, worst: int) -> dict[str, Evaluation]:
    """Evaluate a model that has learnt nothing."""
    return {split: evaluator_of(job, split, StopRequest())(job.learner.model, worst=worst) for split in ("val", "test")}


def listed(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.run.path / "worst_clips/worst_clips.jsonl").read_text().splitlines()]


def test_the_worst_clips_of_the_last_split_can_be_heard(job: Job) -> None:
    results = results_of(job, worst=4)
    mirror_results(job, results, Tracker([]))
    rows, words = job.data.stores["test"].rows, job.data.dataset.words
    assert len(listed(job)) == 4
    for line, one in zip(listed(job), results["test"].worst, strict=True):
        assert line["key"] == rows.keys[one.clip]
        assert (line["word"], line["heard"]) == (words[rows.label[one.clip]], words[one.predicted])
        assert (line["loss"], line["probability"]) == (one.loss, one.probability)
        samples, rate_hz = soundfile.read(job.run.path / "worst_clips" / line["file"], dtype="int16")
        assert rate_hz == job.data.dataset.sample_rate_hz
        assert np.array_equal(samples, job.data.stores["test"].gather(np.array([one.clip]))[0].numpy())


def test_clips_of_an_earlier_end_are_replaced(job: Job) -> None:
    results = results_of(job, worst=4)
    mirror_results(job, results, Tracker([]))
    mirror_results(job, results_of(job, worst=2), Tracker([]))
    assert len(listed(job)) == 2
    assert len(list((job.run.path / "worst_clips").glob("*.wav"))) == 2
    mirror_results(job, results_of(job, worst=0), Tracker([]))
    assert not (job.run.path / "worst_clips").exists()


def test_figures_that_are_not_finite_are_null_in_the_list(job: Job) -> None:
    bad = WorstClip(clip=0, loss=float("nan"), predicted=0, probability=float("nan"))
    mirror_results(job, {"test": Evaluation(np.eye(3, dtype=int), float("nan"), (bad,))}, Tracker([]))
    (line,) = listed(job)
    assert line["loss"] is None
    assert line["probability"] is None


def test_confusions_of_all_splits_and_the_clips_are_tracked(job: Job) -> None:
    sink, results = Recorder(), results_of(job, worst=3)
    mirror_results(job, results, Tracker([sink]))
    *matrices, (kind, name, clips) = sink.seen
    words = job.data.dataset.words
    assert [seen[:3] for seen in matrices] == [
        ("log_confusion", "val/confusion", words),
        ("log_confusion", "test/confusion", words),
    ]
    assert matrices[1][3] is results["test"].confusion
    assert (kind, name) == ("log_clips", "test/worst_clips")
    assert [clip.path.name for clip in clips] == [line["file"] for line in listed(job)]


def test_checkpoints_are_tracked_only_where_that_is_asked_for(tiny_dataset: Path, job: Job) -> None:
    sink = Recorder()
    mirror_checkpoint(job, Path("step-1"), True, Tracker([sink]))
    mirror_checkpoint(job, Path("step-2"), False, Tracker([sink]))
    assert sink.seen == [
        ("log_checkpoint", Path("step-1"), ["best", "latest"]),
        ("log_checkpoint", Path("step-2"), ["latest"]),
    ]
    with a_job(tiny_dataset, "--tracking.wandb", "offline") as (other, _):
        mirror_checkpoint(other, Path("step-3"), True, Tracker([sink]))
    assert len(sink.seen) == 2


def test_both_mirrors_show_confusion_and_sound(job: Job) -> None:
    tracking, run_dir = job.config.tracking, job.run.path
    with Tracker(sinks_of(tracking, run_dir, {}, pytest.fail, start_step=5)) as tracker:
        mirror_results(job, results_of(job, worst=2), tracker)
        tracker.finish(0, {})
    run = only_run(run_dir)
    assert {"val/confusion_table._type", "test/confusion_table._type"} <= run.history[0].keys()
    (clips,) = [artifact for artifact in run.artifacts if "worst_clips" in artifact.name]
    sounds = [path for name, path in clips.files.items() if name.endswith(".wav")]
    assert {path.read_bytes() for path in sounds} == {
        (run_dir / "worst_clips" / line["file"]).read_bytes() for line in listed(job)
    }
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"audio": 0})
    events.Reload()
    assert len(events.Tags()["audio"]) == 2
    assert {"val/confusion/text_summary", "test/confusion/text_summary"} <= set(events.Tags()["tensors"])
