"""One file holds the weights, another all else; with both and no run folder the model is there again."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import chirp
from launching import python, run
from safetensors.torch import load_file

from kws_dist import inference, models
from kws_dist.assemble import model_of
from kws_dist.config import FeaturesConfig, ModelConfig
from kws_dist.errors import UsageError
from kws_dist.frontend.features import build_features
from kws_dist.frontend.normalize import Statistics
from kws_dist.inference.export import about, export
from kws_dist.training.rebuild import rebuild


def test_plain_torch_loads_the_file_and_it_says_what_the_run_says(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    run(python("tools/export.py", "--run_dir", trained_run, "--out", out))
    about = json.loads((tmp_path / "model.pt.json").read_text())
    model = models.build(**about["model"])
    model.load_state_dict(torch.load(out, weights_only=True))

    settings = {name: value for name, value in about["features"].items() if name != "preset"}
    statistics = Statistics.from_json(about["feature_statistics"])
    rate_hz = about["hears"]["sample_rate_hz"]
    features = build_features(**settings, sample_rate_hz=rate_hz, statistics=statistics)
    pcm = np.rint(16_000 * chirp(rate_hz, seconds=about["hears"]["clip_seconds"])).astype(np.int16)
    with torch.inference_mode():
        scores = model.eval()(features(torch.from_numpy(pcm / 32768).float()[None])).softmax(1)[0]
    expected = inference.load(trained_run, "cpu").predict(pcm, rate_hz)
    assert about["words"] == list(expected.words)
    np.testing.assert_allclose(scores.numpy(), expected.scores, rtol=1e-5)


def test_a_checkpoint_is_not_written_over(trained_run: Path, tmp_path: Path) -> None:
    best = tmp_path / "best"
    shutil.copytree(trained_run / "checkpoints" / "best", best)
    with pytest.raises(UsageError, match="is a checkpoint, which stays as it is"):
        export(rebuild(trained_run), best / "weights.safetensors")
    rebuild(best)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "MODEL.PT"])
def test_both_formats_hold_the_averaged_weights_to_the_bit(trained_run: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    beside = tmp_path / f"{name}.json"
    assert export(rebuild(trained_run), out) == [out, beside]
    tensors = load_file(out) if out.suffix == ".safetensors" else torch.load(out, weights_only=True)
    average = load_file(trained_run / "checkpoints" / "best" / "average.safetensors")
    assert type(tensors) is dict
    assert tensors.keys() == average.keys()
    assert all(torch.equal(tensors[key], average[key]) for key in average)
    about = json.loads(beside.read_text())
    assert (about["file"], about["sha256"]) == (name, hashlib.sha256(out.read_bytes()).hexdigest())
    trained = rebuild(trained_run)
    assert about["parameters"] == sum(parameter.numel() for parameter in trained.model.parameters())
    assert about["step"] == trained.state["step"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, beside.name])


def test_two_formats_under_one_name_are_described_each_by_its_own_file(trained_run: Path, tmp_path: Path) -> None:
    trained = rebuild(trained_run)
    files = [tmp_path / "model.pt", tmp_path / "model.safetensors"]
    for beside, out in [(export(trained, out)[1], out) for out in files]:
        about = json.loads(beside.read_text())
        assert (about["file"], about["sha256"]) == (out.name, hashlib.sha256(out.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("out", "word"),
    [
        ("model.exe", r"\.safetensors"),
        ("model", r"\.safetensors"),
        ("model.json", r"\.safetensors"),
        ("nowhere/model.pt", "nowhere"),
        ("folder.pt", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_nothing_written(
    trained_run: Path, tmp_path: Path, out: str, word: str
) -> None:
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(UsageError, match=word):
        export(rebuild(trained_run), tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt"]


def test_every_architecture_can_be_built_from_what_is_written(trained_run: Path) -> None:
    trained = rebuild(trained_run)
    for name in models.list_models():
        features = FeaturesConfig(kind="waveform" if models.takes_waveforms(name) else "logmel")
        config = replace(trained.config, model=ModelConfig(name=name), features=features)
        expected = model_of(config, len(trained.words), trained.state["sample_rate_hz"]).state_dict()
        made = models.build(**about(replace(trained, config=config))["model"]).state_dict()
        assert {key: one.shape for key, one in made.items()} == {key: one.shape for key, one in expected.items()}, name


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    command = python("tools/export.py", "--run_dir", tmp_path / "missing", "--out", tmp_path / "model.pt")
    error = run(command, expect=2).stderr
    assert "missing" in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
