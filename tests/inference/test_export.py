"""One file holds the weights, another all else; with both and no run folder the model is there again."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import chirp
from launching import python, run
from safetensors.torch import load_file

from kws_dist import inference, models
from kws_dist.frontend.features import build_features
from kws_dist.frontend.normalize import Statistics
from kws_dist.training.rebuild import rebuild


def test_plain_torch_loads_the_file_and_it_says_what_the_run_says(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    run(python("tools/export.py", "--run_dir", trained_run, "--out", out))
    about = json.loads((tmp_path / "model.json").read_text())
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


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "MODEL.PT"])
def test_both_formats_hold_the_averaged_weights_to_the_bit(trained_run: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    run(python("tools/export.py", "--run_dir", trained_run, "--out", out))
    tensors = load_file(out) if out.suffix == ".safetensors" else torch.load(out, weights_only=True)
    average = load_file(trained_run / "checkpoints" / "best" / "average.safetensors")
    assert type(tensors) is dict
    assert tensors.keys() == average.keys()
    assert all(torch.equal(tensors[key], average[key]) for key in average)
    about = json.loads(out.with_suffix(".json").read_text())
    assert (about["file"], about["sha256"]) == (name, hashlib.sha256(out.read_bytes()).hexdigest())
    trained = rebuild(trained_run)
    assert about["parameters"] == sum(parameter.numel() for parameter in trained.model.parameters())
    assert about["step"] == trained.state["step"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, out.with_suffix(".json").name])


@pytest.mark.parametrize(
    ("run_name", "out", "word"),
    [
        ("run", "model.exe", ".safetensors"),
        ("run", "model.json", ".safetensors"),
        ("run", "nowhere/model.pt", "nowhere"),
        ("run", "folder.pt", "folder"),
        ("missing", "model.pt", "missing"),
        ("folder.pt", "model.pt", "no trained model"),
    ],
)
def test_wrong_use_is_one_sentence(trained_run: Path, tmp_path: Path, run_name: str, out: str, word: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "run").symlink_to(trained_run)
    error = run(python("tools/export.py", "--run_dir", tmp_path / run_name, "--out", tmp_path / out), expect=2).stderr
    assert word in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
