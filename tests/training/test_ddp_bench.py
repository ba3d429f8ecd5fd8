"""The cost of several processes, measured by one command on as many as there are GPUs, or two on a CPU."""

import pytest
from launching import last_json, python, run

pytestmark = pytest.mark.dist


def test_wrapper_and_sum_are_timed_apart_and_beside_one_process_alone() -> None:
    model = ("--model.name", "gru", "--model.params", "hidden", "8", "layers", "1", "--train.global_batch", "4")
    done = run(python("tools/bench.py", "ddp", "--steps", "2", "--rounds", "3", *model))
    result = last_json(done.stdout)
    assert result["processes"] >= 2
    assert result["gradient_bytes"] == 4 * result["parameters"] > 0
    ways = {"one process alone", "DDP, nothing summed", "DDP", "all-reduce alone", "DDP, gradients sent in bf16"}
    assert ways < set(result["step_ms"])
    assert any("buckets of" in name for name in result["step_ms"])
    assert all(time_ms > 0 for time_ms in result["step_ms"].values())
    assert result["to_alone"]["one process alone"] == 1
    assert set(result["overhead"]) == {"wrapper", "all_reduce", "total"}
    assert f"{result['overhead']['total']:+.1%}" in done.stdout


def test_a_model_that_is_not_there_is_said_in_one_sentence() -> None:
    said = run(python("tools/bench.py", "ddp", "--model.name", "grue"), expect=2).stderr
    assert "gru" in said
    assert "Traceback" not in said
