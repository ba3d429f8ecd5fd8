"""A profile shows where the time of a step goes, adds up, and does not get in the way of the training."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from launching import run, two_ranks
from profiled_training import train

from kws_dist.training.profile import Profiler, table
from kws_dist.training.trace import Summary, summarize

PARTS = {"data", "features", "forward", "backward", "all-reduce", "optimizer", "rest"}
MAIN, AUTOGRAD, WORKER = 1, 2, 3  # threads


def events_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return json.load(file)["traceEvents"]


def check(summary: Summary) -> dict[str, float]:
    """Check what is true of any profile; return the shares."""
    shares = {part.name: part.share for part in summary.parts}
    assert shares.keys() >= PARTS
    assert all(0 <= share <= 1 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(part.time_ms for part in summary.parts) == pytest.approx(summary.step_ms)
    own_ms = [operation.self_ms for operation in summary.operations]
    assert own_ms == sorted(own_ms, reverse=True)
    assert all(0 < operation.share <= 1 for operation in summary.operations)
    return shares


@pytest.mark.parametrize("ahead", [0, 2], ids=["inline", "in a thread"])
def test_the_parts_of_the_steps_are_in_the_trace_and_in_the_report(
    tiny_dataset: Path, tmp_path: Path, ahead: int
) -> None:
    said = train(tiny_dataset, tmp_path / "profile", Accelerator(cpu=True), profile=4, steps=15, ahead=ahead)
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "steps-8-to-11.json.gz"
    events = events_of(path)
    for name in ("data", "features", "forward", "backward", "optimizer"):
        assert len([event for event in events if event.get("name") == f"kws/{name}"]) == pytest.approx(4, abs=1)
    shares = check(summarize(events, steps=4))
    assert all(shares[name] > 0 for name in ("forward", "backward", "optimizer"))
    assert shares["all-reduce"] == 0
    if not ahead:
        assert shares["data"] > 0
        assert shares["features"] > 0
    where, report = said
    assert str(path) in where
    lines = report.splitlines()
    assert max(map(len, lines)) <= 80
    heading = next(number for number, line in enumerate(lines) if line.startswith("operation"))
    assert len(lines) == heading + 1 + 10
    assert {line.split()[0].rstrip(":") for line in lines[2 : heading - 1]} == PARTS


def test_nothing_is_made_when_it_is_off(tiny_dataset: Path, tmp_path: Path) -> None:
    assert train(tiny_dataset, tmp_path / "profile", Accelerator(cpu=True), profile=0, steps=9) == []
    assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_earlier_reports_the_steps_it_took(tiny_dataset: Path, tmp_path: Path) -> None:
    said = train(tiny_dataset, tmp_path, Accelerator(cpu=True), profile=20, steps=10, first_step=100)
    assert [path.name for path in tmp_path.iterdir()] == ["steps-108-to-110.json.gz"]
    summary = summarize(events_of(tmp_path / "steps-108-to-110.json.gz"), steps=3)
    check(summary)
    assert summary.steps == 3
    assert said[1] == table(summary)


def test_a_run_that_ends_before_the_profile_says_so(tiny_dataset: Path, tmp_path: Path) -> None:
    (said,) = train(tiny_dataset, tmp_path, Accelerator(cpu=True), profile=4, steps=6)
    assert "first 7 steps" in said
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_training_is_not_hidden_by_a_report(tmp_path: Path) -> None:
    said: list[str] = []

    def fail() -> None:
        with Profiler(4, tmp_path, said.append) as profiler:
            for _ in range(9):
                profiler.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_word(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    (said,) = train(tiny_dataset, tmp_path / "profile", Accelerator(cpu=True), profile=2, steps=12)
    assert "cannot be written" in said


@pytest.mark.dist
def test_two_ranks_show_what_the_all_reduce_takes(tiny_dataset: Path, tmp_path: Path) -> None:
    run(two_ranks("tests/training/profiled_training.py", tiny_dataset, tmp_path / "profile"))
    (path,) = (tmp_path / "profile").iterdir()
    summary = summarize(events_of(path), steps=6)
    check(summary)
    part = next(part for part in summary.parts if part.name == "all-reduce")
    assert part.time_ms + part.beside_ms > 0
    assert part.share > 0
    assert "gloo:all_reduce" in [operation.name for operation in summary.operations]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_time_is_that_of_its_kernels(tiny_dataset: Path, tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tiny_dataset, tmp_path, Accelerator(), profile=4, steps=15, ahead=2)
    AcceleratorState._reset_state(reset_partial_state=True)
    summary = summarize(events_of(tmp_path / "steps-8-to-11.json.gz"), steps=4)
    shares = check(summary)
    assert summary.on_gpu
    assert all(shares[name] > 0 for name in ("forward", "backward", "optimizer"))
    of_worker = [part for part in summary.parts if part.name in ("data", "features")]
    assert all(part.time_ms + part.beside_ms > 0 for part in of_worker)
    assert any(operation.name.startswith("aten::") for operation in summary.operations)


def event(cat: str, name: str, start_ms: float, end_ms: float, tid: int = MAIN, **args: int) -> dict[str, Any]:
    """An event as torch writes it, with times in milliseconds instead of microseconds."""
    times = {"ts": 1000 * start_ms, "dur": 1000 * (end_ms - start_ms)}
    return {"ph": "X", "cat": cat, "name": name, "tid": tid, "args": args, **times}


def mark(name: str, start_ms: float, end_ms: float, tid: int = MAIN) -> dict[str, Any]:
    return event("user_annotation", name, start_ms, end_ms, tid)


def times_ms(summary: Summary) -> dict[str, tuple[float, float]]:
    parts = {part.name: (round(part.time_ms, 6), round(part.beside_ms, 6)) for part in summary.parts}
    return {name: times for name, times in parts.items() if times != (0, 0)}


def test_the_all_reduce_counts_where_backward_waits_for_it() -> None:
    summary = summarize(
        [
            mark("ProfilerStep#7", 0, 100),
            mark("kws/forward", 0, 30),
            mark("kws/backward", 30, 80),
            event("cpu_op", "aten::mm", 30, 60),
            mark("gloo:all_reduce", 40, 75, WORKER),
            event("cpu_op", "aten::copy_", 75, 80),
            mark("kws/optimizer", 80, 90),
            mark("ProfilerStep#8", 100, 300),  # not to be looked at
            mark("kws/forward", 100, 200),
        ],
        steps=1,
    )
    assert times_ms(summary) == {
        "forward": (30, 0),
        "backward": (35, 0),
        "all-reduce": (15, 20),
        "optimizer": (10, 0),
        "rest": (10, 0),
    }


def test_batches_made_ahead_count_where_the_training_waits_for_them() -> None:
    summary = summarize(
        [
            mark("ProfilerStep#7", 0, 50),
            mark("ProfilerStep#8", 50, 100),
            mark("kws/forward", 20, 60),
            mark("kws/data", 10, 15, WORKER),
            mark("kws/features", 15, 30, WORKER),
        ],
        steps=2,
    )
    assert times_ms(summary) == {"data": (2.5, 0), "features": (2.5, 5), "forward": (20, 0), "rest": (25, 0)}


def test_parts_that_are_no_training_are_told_apart_whatever_is_inside() -> None:
    summary = summarize(
        [mark("ProfilerStep#7", 0, 100), mark("kws/validation", 10, 60), mark("kws/features", 20, 30)], steps=1
    )
    assert times_ms(summary) == {"validation": (50, 0), "rest": (50, 0)}


def test_operations_are_ranked_by_what_they_do_themselves() -> None:
    inside = [event("cpu_op", "aten::addmm", start, start + 4) for start in (12, 22)]
    outer = [event("cpu_op", "aten::linear", start, start + 6) for start in (11, 21)]
    summary = summarize([mark("ProfilerStep#7", 0, 50), mark("kws/forward", 10, 30), *outer, *inside], steps=1)
    found = [(one.name, one.self_ms, one.share, one.calls) for one in summary.operations]
    assert found == [("aten::addmm", 8, 0.16, 2), ("aten::linear", 4, 0.08, 2)]


def test_the_work_of_a_gpu_belongs_to_the_part_that_launched_it() -> None:
    """Kernels come after their launches; autograd and the worker launch from threads of their own."""
    summary = summarize(
        [
            mark("ProfilerStep#7", 0, 100),
            mark("kws/forward", 0, 10),
            event("cpu_op", "aten::mm", 1, 3, **{"External id": 5}),
            event("cuda_runtime", "cudaLaunchKernel", 2, 3, correlation=50, **{"External id": 5}),
            mark("kws/backward", 10, 20),
            event("cpu_op", "aten::add", 11, 13, AUTOGRAD, **{"External id": 6}),
            event("cuda_runtime", "cudaLaunchKernel", 12, 13, AUTOGRAD, correlation=60, **{"External id": 6}),
            mark("kws/features", 5, 15, WORKER),
            event("cuda_driver", "cuLaunchKernelEx", 12, 13, WORKER, correlation=70),
            event("cuda_runtime", "cudaMemcpyAsync", 25, 26, correlation=80),
            event("gpu_user_annotation", "kws/forward", 10, 99, 7),
            event("kernel", "gemm", 10, 40, 7, correlation=50),
            event("kernel", "vectorized", 40, 70, 7, correlation=60),
            event("kernel", "mel", 30, 50, 8, correlation=70),
            event("kernel", "ncclDevKernel_AllReduce", 60, 80, 9),
            event("gpu_memcpy", "Memcpy DtoH", 85, 90, 7, correlation=80),
        ],
        steps=1,
    )
    assert summary.on_gpu
    assert times_ms(summary) == {
        "features": (0, 20),
        "forward": (30, 0),
        "backward": (30, 0),
        "all-reduce": (10, 10),
        "other": (5, 0),
        "rest": (25, 0),
    }
    names = {one.name: one.self_ms for one in summary.operations}
    assert names == {"aten::mm": 30, "aten::add": 30, "mel": 20, "ncclDevKernel_AllReduce": 20, "Memcpy DtoH": 5}
