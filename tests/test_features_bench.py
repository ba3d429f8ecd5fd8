"""What `tools/bench.py features` runs."""

import json

import pytest
import torch

from kws_dist.features_bench import AT_ONCE, EACH, FEATURES, TRANSFORM, bench_features, show


def test_every_kind_is_measured_against_torchaudio_and_the_transform_alone(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_features(device=torch.device("cpu"), clips=20, rounds=2)
    assert list(result["clips_per_s"]) == [*FEATURES, EACH, AT_ONCE, TRANSFORM]
    assert min(result["clips_per_s"].values()) > 0
    for other, ratios in result["to"].items():
        assert ratios[other] == 1
        assert set(ratios) == set(result["clips_per_s"])
    assert json.loads(json.dumps(result)) == result
    show(result)
    shown = capsys.readouterr().out
    assert "features of 20 clips" in shown
    assert all(name in shown for name in FEATURES)
