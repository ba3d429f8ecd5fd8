"""A trained run hears a wave as evaluation heard the clips of the shards, in whatever form the wave comes."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
import torch
from conftest import chirp
from launching import ROOT, environment, last_json, python, run

from kws_dist import inference
from kws_dist.corpus.audio import decode
from kws_dist.corpus.folder import open_folder
from kws_dist.data.clip_reader import disk_order
from kws_dist.errors import DataError, UsageError
from kws_dist.evaluation.suspects import suspects
from kws_dist.inference import Predictor
from kws_dist.inference.export import export
from kws_dist.recording import pcm_of
from kws_dist.shards.read import Rows, open_dataset
from kws_dist.shards.read import pcm_of as pcm_of_row
from kws_dist.training.checkpoint import step_folders
from kws_dist.training.data import open_data
from kws_dist.training.rebuild import Rebuilt, rebuild

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def predictor(trained_run: Path) -> Predictor:
    return inference.load(trained_run, device="cpu")


def stored(rows: Rows) -> dict[str, np.ndarray]:
    """The samples of every clip as the shards hold them, by key."""
    samples = {}
    for clip in disk_order(rows):
        content = rows.shard_paths[rows.shard[clip]].read_bytes()
        begin = rows.record_offset[clip]
        samples[rows.keys[clip]] = pcm_of_row(rows, int(clip), content[begin : begin + rows.record_bytes[clip]])
    return samples


def heard_by_evaluation(trained: Rebuilt, shards: Path, split: str) -> dict[str, tuple[str, float]]:
    """Word and probability of every clip, the way of the shards."""
    config = replace(trained.config.data, shards=str(shards), residency="host")
    data = open_data(config, CPU, (split,), words=trained.words)
    found = suspects(data.stores, trained.model, trained.front_end, trained.words, worst=10_000, device=CPU)
    return {one.key: (one.heard, one.heard_probability) for one in found}


def test_three_lines_of_python_say_a_word(trained_run: Path) -> None:
    spotter = inference.load(str(trained_run))
    prediction = spotter.predict(chirp(16_000), 16_000)
    assert prediction.word in spotter.words == ("no", "up", "yes")
    assert prediction.scores.sum() == pytest.approx(1)
    ranked = prediction.top(5)
    assert ranked[0] == (prediction.word, prediction.score)
    assert [score for _, score in ranked] == sorted(prediction.scores.tolist(), reverse=True)
    assert {word for word, _ in ranked} == set(spotter.words)
    assert len(prediction.top(2)) == 2


def test_the_words_are_those_that_evaluation_counted(
    predictor: Predictor, trained_run: Path, tiny_dataset: Path
) -> None:
    rows = open_dataset(tiny_dataset).rows("test")
    words, samples = open_dataset(tiny_dataset).words, stored(rows)
    predictions = predictor.predict_batch([samples[key] for key in rows.keys], 16_000)
    correct = Counter(
        words[label] for label, said in zip(rows.label, predictions, strict=True) if said.word == words[label]
    )
    counted = json.loads((trained_run / "result.json").read_text())["test"]["per_word"]
    assert {word: counted[word]["correct"] for word in words} == {word: correct[word] for word in words}


@pytest.mark.parametrize(
    ("clip_seconds", "pad", "long"),
    [(1.0, "end", "error"), (1.0, "center", "error"), (0.04, "end", "start"), (0.04, "end", "center")],
)
def test_clips_are_padded_and_cropped_as_for_evaluation(
    trained_run: Path,
    tiny_dataset: Path,
    clip_seconds: float,
    pad: Literal["end", "center"],
    long: Literal["error", "start", "center"],
) -> None:
    trained = rebuild(trained_run)
    data = replace(trained.config.data, clip_seconds=clip_seconds, pad=pad, long=long)
    trained = replace(trained, config=replace(trained.config, data=data))
    evaluated, predictor = heard_by_evaluation(trained, tiny_dataset, "train"), Predictor(trained, CPU)
    samples = stored(open_dataset(tiny_dataset).rows("train"))
    assert len(evaluated) == 21
    for key, (word, probability) in evaluated.items():
        said = predictor.predict(samples[key], 16_000)
        assert (said.word, said.score) == (word, pytest.approx(probability, rel=1e-5))


@pytest.mark.real_data
def test_real_recordings_of_another_rate_are_heard_as_their_shards_are(real_data: Path, tmp_path: Path) -> None:
    shards, run_dir = tmp_path / "shards", tmp_path / "run"
    folder = ("folder", "--root", real_data / "my_digits.zip", "--clip_seconds", "3", "--workers", "1")
    run(python("tools/make_shards.py", *folder, "--out", shards))
    small = ("--model.name", "gru", "--model.params", "hidden", "16", "layers", "1", "--features.normalize", "clip")
    train = ("--train.epochs", "2", "--train.global_batch", "16", "--train.optimizer", "adam")
    rate = ("--train.learning_rate", "0.01", "--train.warmup_epochs", "0", "--data.clip_seconds", "3")
    rate += ("--train.precision", "fp32")  # in which a run is evaluated as it is used
    run(python("launch/train.py", "--data.shards", shards, "--run_dir", run_dir, *small, *train, *rate))
    evaluated = heard_by_evaluation(rebuild(run_dir), shards, "test")
    assert len(evaluated) == 60
    assert len({word for word, _ in evaluated.values()}) > 1, "a model that always says the same would agree anyhow"

    source, predictor = open_folder(real_data / "my_digits.zip", clip_seconds=3), inference.load(run_dir, "cpu")
    correct, word_of = Counter[str](), {clip.key: clip.word for clip in source.clips}
    for key, (word, probability) in evaluated.items():
        name = source._span[key].name
        wave, rate_hz = soundfile.read(io.BytesIO(source._container.read(name)), dtype="float32")
        assert rate_hz == 8000
        said = predictor.predict(wave, rate_hz)
        assert (said.word, said.score) == (word, pytest.approx(probability, rel=1e-4))
        correct[word_of[key]] += said.word == word_of[key]
    counted = json.loads((run_dir / "result.json").read_text())["test"]["per_word"]
    assert {word: counted[word]["correct"] for word in counted} == {word: correct[word] for word in counted}


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_a_wave_of_any_rate_is_what_the_shard_maker_would_have_stored(rate_hz: int) -> None:
    wave = chirp(rate_hz)
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format="WAV", subtype="DOUBLE")
    assert np.array_equal(pcm_of(wave, rate_hz, 16_000), decode(file.getvalue(), "chirp"))


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float32": lambda pcm: (pcm / 32768).astype(np.float32),
    "float64": lambda pcm: pcm / 32768,
    "one channel": lambda pcm: pcm[None],
    "two channels": lambda pcm: np.stack([pcm, pcm]),
    "two float channels": lambda pcm: np.stack([pcm / 16384, np.zeros(len(pcm))]),
    "big endian": lambda pcm: pcm.astype(">i2"),
    "int16 tensor": torch.from_numpy,
    "float tensor with a gradient": lambda pcm: torch.from_numpy(pcm / 32768).requires_grad_(),
    "every second of twice as many": lambda pcm: np.repeat(pcm, 2)[::2],
    "a column": lambda pcm: np.stack([pcm, 0 * pcm], 1)[:, 0],
    "list": lambda pcm: (pcm / 32768).tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_wave_changes_nothing(predictor: Predictor, form: str) -> None:
    pcm = np.rint(16_000 * chirp(16_000)).astype(np.int16)
    expected, said = predictor.predict(pcm, 16_000), predictor.predict(FORMS[form](pcm), 16_000)
    assert np.array_equal(said.scores, expected.scores)


def test_a_clip_is_heard_the_same_alone_and_among_others(predictor: Predictor) -> None:
    waves = [chirp(rate_hz=16_000, seconds=0.1 + 0.01 * number) for number in range(70)]  # more than one batch
    together = predictor.predict_batch(waves, 16_000)
    for wave, said in list(zip(waves, together, strict=True))[::10]:
        np.testing.assert_allclose(predictor.predict(wave, 16_000).scores, said.scores, rtol=1e-5)
    assert predictor.predict_batch([], 16_000) == []


def test_a_wave_longer_than_a_clip_is_not_cut_unless_the_run_was_trained_so(trained_run: Path) -> None:
    trained, wave = rebuild(trained_run), chirp(16_000, seconds=1.5)
    with pytest.raises(UsageError, match=r"1\.50 s.*predict_long"):
        Predictor(trained, CPU).predict(wave, 16_000)
    config = replace(trained.config, data=replace(trained.config.data, long="start"))
    predictor = Predictor(replace(trained, config=config), CPU)
    assert np.array_equal(predictor.predict(wave, 16_000).scores, predictor.predict(wave[:16_000], 16_000).scores)


def test_a_clip_that_resampling_makes_a_sample_longer_is_no_longer_than_a_clip(predictor: Predictor) -> None:
    assert len(pcm_of(np.zeros(11_026), 11_025, 16_000)) == 16_002
    assert predictor.predict(np.zeros(11_025), 11_025).word in predictor.words
    assert predictor.predict(np.zeros(44_101), 44_100).word in predictor.words  # 16000.4 samples


WRONG: dict[str, tuple[Any, Any, str]] = {
    "no samples": (np.zeros(0), 16_000, "no samples"),
    "no samples in two channels": (np.zeros((2, 0)), 16_000, "no samples"),
    "no channels": (np.zeros((0, 100)), 16_000, "shape"),
    "not a number": (np.array([0.0, np.nan]), 16_000, "not numbers"),
    "infinite": (torch.tensor([0.0, torch.inf]), 16_000, "not numbers"),
    "channels last": (np.zeros((16_000, 2)), 16_000, "transpose"),
    "a number": (np.zeros(()), 16_000, "shape"),
    "a batch": (np.zeros((2, 1, 16_000)), 16_000, "shape"),
    "32 bits": (np.zeros(16_000, np.int32), 16_000, "int32"),
    "16-bit numbers as floats": (np.full(16_000, 20_000.0), 16_000, "32768"),
    "no rate": (np.zeros(16_000), 0, "0"),
    "half a hertz": (np.zeros(16_000), 16_000.5, "16000.5"),
    "no rate at all": (np.zeros(16_000), float("nan"), "nan"),
    "a rate of no recording": (np.zeros(16_000), 10, "10 Hz"),
    "a rate that is a word": (np.zeros(16_000), "16000", "not '16000'"),
    "None as a rate": (np.zeros(16_000), None, "not None"),
    "a list of rates": (np.zeros(16_000), [16_000, 8_000], "not [16000, 8000]"),
    "an array of rates": (np.zeros(16_000), np.array([16_000, 8_000]), "not array"),
}


@pytest.mark.parametrize("ask", ["predict", "predict_long"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wave_that_is_none_is_refused_in_a_sentence(predictor: Predictor, wrong: str, ask: str) -> None:
    wave, rate_hz, said = WRONG[wrong]
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        getattr(predictor, ask)(wave, rate_hz)
    assert "\n" not in str(error.value)


def test_a_run_that_is_missing_empty_or_damaged_is_refused_in_a_sentence(own_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        inference.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no trained model"):
        inference.load(tmp_path / "empty")
    weights = own_run / "checkpoints" / "best" / "average.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    newest = step_folders(own_run / "checkpoints")[-1]
    with pytest.raises(DataError, match=rf"average\.safetensors is damaged.*its newest checkpoint is {newest}"):
        inference.load(own_run)


def test_a_checkpoint_folder_alone_is_all_it_takes(trained_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(trained_run / "checkpoints" / "best", tmp_path / "elsewhere" / "mine")
    expected = inference.load(trained_run, "cpu").predict(chirp(16_000), 16_000)
    assert np.array_equal(inference.load(alone, "cpu").predict(chirp(16_000), 16_000).scores, expected.scores)
    written = [export(rebuild(path), tmp_path / f"{path.name}.pt")[0] for path in (trained_run, alone)]
    assert written[0].read_bytes() == written[1].read_bytes()
    tool = run(python("tools/export.py", "--run_dir", alone, "--out", tmp_path / "tool.pt"))
    assert "tool.pt" in tool.stdout
    figures = last_json(run(python("launch/evaluate.py", "--run_dir", alone, "--data.shards", tiny_dataset)).stdout)
    counted = json.loads((trained_run / "result.json").read_text())["test"]
    assert (figures["correct"], figures["n"]) == (counted["correct"], counted["n"])
    assert figures["loss"] == pytest.approx(counted["loss"], rel=1e-6)


def test_a_run_without_a_best_checkpoint_names_the_one_that_can_be_taken(own_run: Path) -> None:
    shutil.rmtree(own_run / "checkpoints" / "best")
    newest = step_folders(own_run / "checkpoints")[-1]
    with pytest.raises(UsageError, match=rf"no trained model.*its newest checkpoint is {newest}") as error:
        inference.load(own_run)
    assert "\n" not in str(error.value)
    assert inference.load(newest, "cpu").words == ("no", "up", "yes")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_refused_in_a_sentence(trained_run: Path, device: str) -> None:
    with pytest.raises(UsageError, match=f"--device {device}"):
        inference.load(trained_run, device)


def test_using_a_model_takes_none_of_what_training_takes(trained_run: Path) -> None:
    code = f"""
import sys
import numpy as np
from kws_dist import inference
inference.load({str(trained_run)!r}).predict(np.zeros(8000), 16_000)
print([name for name in ("accelerate", "wandb", "matplotlib") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
