"""The benchmark of the way from PCM to features: what it times is what training does, and its figures agree."""

import json

import pytest
import torch

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.workers import DeviceWorker
from kws_dist.pipeline_bench import WHOLE, WHOLE_BF16, bench_pipeline, show
from kws_dist.pipeline_stages import BATCHES, Pipeline
from kws_dist.roofline import Limits, limits_of

CPU = torch.device("cpu")


def test_the_stages_one_after_the_other_make_what_the_worker_makes() -> None:
    pipeline = Pipeline.build(CPU, clips=100, batch=8)
    masked = {stage.name: stage for stage in pipeline.stages()}["SpecAugment"]
    worker = DeviceWorker(pipeline.store, pipeline.sampler, pipeline.front_end, BatchSlice(global_batch=8), CPU)
    for turn, batch in enumerate(worker.batches(0, BATCHES)):
        torch.testing.assert_close(masked.run(turn), batch.features, rtol=0, atol=1e-6)


def test_the_figures_agree_with_each_other_and_with_the_ceilings(capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(json.dumps(bench_pipeline(device=CPU, clips=200, batch=32, rounds=1)))
    limits, stages = result["limits"], result["stages"]
    assert limits["source"] == "measured"
    for name, of in stages.items():
        assert of["batch_us"] == pytest.approx(32e6 / of["clips_per_s"])
        assert 0 < of["batch_queued_us"] <= of["batch_us"]
        assert of["share_of_memory"] * limits["memory_bytes_per_s"] == pytest.approx(
            of["bytes_per_clip"] * of["clips_per_s"]
        )
        assert of["clips_per_s"] / of["most_clips_per_s"] == pytest.approx(
            max(of["share_of_memory"], of["share_of_fp32"])
        ), name
    parts = [of["bytes_per_clip"] for name, of in stages.items() if name not in (WHOLE, WHOLE_BF16)]
    assert stages[WHOLE_BF16]["bytes_per_clip"] == sum(parts)
    assert stages[WHOLE]["bytes_per_clip"] == sum(parts[:-1])
    show(result)
    shown = capsys.readouterr().out
    assert all(name in shown for name in stages)


def test_the_nearer_ceiling_is_the_one_that_counts() -> None:
    limits = Limits(memory_bytes_per_s=100.0, fp32_flops_per_s=1000.0, source="datasheet")
    assert limits.clips_per_s(bytes_per_clip=2, flops_per_clip=10) == 50
    assert limits.clips_per_s(bytes_per_clip=2, flops_per_clip=100) == 10


def test_a_device_that_is_not_known_is_measured() -> None:
    limits = limits_of(CPU)
    assert limits.source == "measured"
    assert 1e8 < limits.memory_bytes_per_s < 1e13
    assert 1e8 < limits.fp32_flops_per_s < 1e14
