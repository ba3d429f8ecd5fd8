"""Promises of the five systems that this project grew from: what each is named for works, from shards to a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_recordings
import pytest
import tiny_corpus
import torch
from launching import ROOT, python, run
from torch import Tensor, nn

from kws_dist import models
from kws_dist.config import Config
from kws_dist.config import load_file as load_settings
from kws_dist.corpus.tasks import task_called
from kws_dist.frontend.augment import Sounds, feature_augmentation, wave_augmentation
from kws_dist.frontend.features import Features
from kws_dist.frontend.mix import Mix
from kws_dist.frontend.noise import NoiseBank
from kws_dist.metrics_file import read_metrics
from kws_dist.shards.read import open_dataset
from kws_dist.training import checkpoint
from kws_dist.training.rebuild import rebuild, rebuild_from
from kws_dist.training.schedule import learning_rate

SMALLER = {
    "rnn_mfcc_lstm": ("hidden", "8"),
    "rnn_mfcc_gru": ("hidden", "8"),
    "bilstm": ("hidden", "8"),
    "m5": ("channels", "8"),
    "cnn_lstm": ("channels", "2", "hidden", "8"),
    "cnn4": ("channels", "2"),
}
"""Parameters that let a system train in a moment."""

Train = Callable[..., Path]


def recipe(name: str) -> Config:
    return load_settings(ROOT / "configs" / f"{name}.yaml")


def result_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "result.json").read_text())


def train_recipe(name: str, shards: Path, run_dir: Path, *flags: str | Path) -> Path:
    """Train a shipped recipe for one epoch, with a smaller model; the flags override that."""
    params = ("--model.params", *SMALLER[name]) if name in SMALLER else ()
    few = ("--train.epochs", "1", "--train.global_batch", "8", *params)
    config = ROOT / "configs" / f"{name}.yaml"
    run(python("launch/train.py", "--config", config, "--data.shards", shards, "--run_dir", run_dir, *few, *flags))
    return run_dir


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train a recipe on three words, once for all tests."""
    done: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in done:
            done[name] = train_recipe(name, tiny_dataset, tmp_path_factory.mktemp(name) / "run")
        return done[name]

    return train


def assert_judged_on_the_test_set(run_dir: Path, classes: int, clips: int) -> None:
    """Check that a run folder says accuracy, loss and confusion matrix, and that they agree."""
    test = result_of(run_dir)["test"]
    confusion = torch.tensor(test["confusion"])
    assert confusion.shape == (classes, classes)
    assert confusion.sum() == test["n"] == clips
    assert confusion.trace() / clips == pytest.approx(test["accuracy"])
    assert [one["n"] for one in test["per_word"].values()] == confusion.sum(dim=1).tolist()
    assert 0 < test["loss"] < 10
    assert (run_dir / "confusion.png").stat().st_size > 1000


# --- MFCC sequence -> LSTM or GRU -> linear -> softmax, on the words of the shards ---


@pytest.mark.parametrize(("name", "cell"), [("rnn_mfcc_lstm", nn.LSTM), ("rnn_mfcc_gru", nn.GRU)])
def test_a_recurrent_layer_reads_mfccs_and_a_linear_one_answers(name: str, cell: type[nn.RNNBase]) -> None:
    config = recipe(name)
    assert config.features.kind == "mfcc"
    model = models.build(config.model.name, num_classes=30, mels=config.features.bins, **config.model.params)
    assert [type(child) for child in model.children() if not isinstance(child, nn.Dropout)] == [cell, nn.Linear]
    (rnn, *_), (*_, linear) = list(model.children()), list(model.children())
    assert rnn.input_size == config.features.coefficients
    assert linear.out_features == 30


def test_the_30_words_of_the_first_release_are_learnt_and_confused(tmp_path: Path) -> None:
    words = task_called("v1-30").words
    assert len(words) == 30
    files = tiny_corpus.files(words, speakers=6)
    shards = tiny_corpus.shards_of(tiny_corpus.pack(tmp_path / "v1.tar.gz", files), tmp_path / "shards", shard_clips=90)
    for name in ("rnn_mfcc_lstm", "rnn_mfcc_gru"):
        run_dir = train_recipe(name, shards, tmp_path / name)
        assert_judged_on_the_test_set(run_dir, classes=30, clips=90)


# --- M5 ---


def test_m5_hears_the_raw_waveform_and_tells_35_words_apart() -> None:
    config = recipe("m5")
    waves = Features(config.features)(torch.randn(2, 16_000).clamp(-1, 1))
    assert waves.shape == (2, 1, 1, 8000)  # samples at 8 kHz and nothing else
    model = models.build("m5", num_classes=35, **config.model.params)
    assert model(waves).shape == (2, 35)
    assert sum(parameter.numel() for parameter in model.parameters()) == 26_915


def test_m5_is_trained_with_adam_at_a_rate_that_drops_after_20_epochs() -> None:
    train = recipe("m5").train
    assert (train.optimizer, train.loss, train.label_smoothing) == ("adam", "cross_entropy", 0)
    rates = [learning_rate(step, train, steps_per_epoch=10) for step in range(10 * train.epochs)]
    assert rates[:200] == [1e-3] * 200
    assert rates[200:] == pytest.approx([1e-4] * 100)


def test_m5_trains_without_augmentation_as_published() -> None:
    settings, noise = recipe("m5").augment, NoiseBank([], clip_samples=16_000)
    assert not wave_augmentation(settings, Sounds(noise=noise), seed=0, sample_rate_hz=16_000, pad="end")
    assert not feature_augmentation(settings, seed=0)


def test_m5_says_how_it_does_on_the_test_set(trained: Train) -> None:
    assert_judged_on_the_test_set(trained("m5"), classes=3, clips=9)


@pytest.fixture(scope="module")
def own_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a user's archive, 30 recordings of each of two words, made as the recipe says."""
    folder = tmp_path_factory.mktemp("own")
    archive = own_recordings.zipped(folder / "my_words.zip", own_recordings.word_files(("no", "zebra"), each=30))
    source = ("--root", archive, "--split", "64/16/20", "--out", folder / "mine")
    run(python("tools/make_shards.py", "folder", *source))
    return folder / "mine"


def test_of_30_own_recordings_a_fifth_of_each_word_is_the_test(own_words: Path) -> None:
    dataset = open_dataset(own_words)
    counts = {
        split: torch.bincount(torch.as_tensor(dataset.rows(split).label)).tolist() for split in ("train", "val", "test")
    }
    assert counts["test"] == [6, 6]
    assert counts["train"] == [19, 19]
    assert counts["val"] == [5, 5]


def test_m5_is_fine_tuned_on_own_recordings_and_stops_early(trained: Train, own_words: Path, tmp_path: Path) -> None:
    """The rate is far too high, so that validation soon gets no better."""
    base = trained("m5")
    flags = ("--init_from", base, "--model.params", *SMALLER["m5"], "--train.learning_rate", "0.5")
    run_dir = train_recipe("m5_finetune", own_words, tmp_path / "run", *flags, "--train.epochs", "60")
    assert recipe("m5_finetune").train.patience_epochs == 10
    records = [record for record in read_metrics(run_dir / "metrics.jsonl") if "val/accuracy" in record]
    assert all(0 <= record["test/accuracy"] <= 1 for record in records)  # after each epoch
    steps_per_epoch = records[0]["step"]
    assert [record["step"] for record in records] == [steps_per_epoch * (i + 1) for i in range(len(records))]
    assert len(records) < 60
    assert records[-1]["step"] - result_of(run_dir)["best_step"] == 10 * steps_per_epoch
    # The learnt filter bank stays as it was; what follows it has learnt.
    before, after = (rebuild(folder).model.state_dict() for folder in (base, run_dir))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("blocks.0.0."))
    assert not torch.equal(before["blocks.3.0.weight"], after["blocks.3.0.weight"])
    assert rebuild(run_dir).words == ("no", "zebra")


# --- Normalised spectrogram -> two strided convolutions -> 2-layer LSTM -> linear ---


def test_cnn_lstm_reads_spectrograms_normalised_clip_by_clip() -> None:
    config = recipe("cnn_lstm")
    assert config.features.kind == "spectrogram"
    maps = Features(config.features)(0.1 * torch.randn(3, 16_000) * torch.tensor([[1.0], [0.1], [0.01]]))
    assert maps.shape == (3, 1, 129, 126)
    torch.testing.assert_close(maps.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.std(dim=(1, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    model = models.build("cnn_lstm", num_classes=10, mels=config.features.bins, **config.model.params)
    assert [conv.stride for conv in model.modules() if isinstance(conv, nn.Conv2d)] == [(2, 2), (2, 2)]
    assert [lstm.num_layers for lstm in model.modules() if isinstance(lstm, nn.LSTM)] == [2]


def test_cnn_lstm_says_how_it_does_on_the_test_set(trained: Train) -> None:
    assert_judged_on_the_test_set(trained("cnn_lstm"), classes=3, clips=9)


# --- 2-layer bidirectional LSTM -> linear ---


class PlainBiLSTM(nn.Module):
    """What a user has who knows nothing of this project: layers of torch; takes (B, frames, mels)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(40, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(16, 3)

    def forward(self, frames: Tensor) -> Tensor:
        _, (last, _) = self.rnn(frames)
        return self.classifier(torch.cat((last[-2], last[-1]), dim=1))


def test_the_state_dict_of_bilstm_is_one_file_that_plain_torch_loads(trained: Train, tmp_path: Path) -> None:
    run_dir = trained("bilstm")
    assert_judged_on_the_test_set(run_dir, classes=3, clips=9)
    assert recipe("bilstm").model.params["layers"] == 2
    run(python("tools/export.py", "--run_dir", run_dir, "--out", tmp_path / "bilstm.pt"))
    plain = PlainBiLSTM()
    plain.load_state_dict(torch.load(tmp_path / "bilstm.pt", weights_only=True), strict=True)
    features = torch.randn(4, 1, 40, 51)
    expected = rebuild(run_dir).model.eval()(features)
    torch.testing.assert_close(plain.eval()(features.squeeze(1).transpose(1, 2)), expected)


# --- Four convolution blocks on log-mels ---


def test_cnn4_reads_log_mels_normalised_clip_by_clip() -> None:
    settings = recipe("cnn4").features
    assert settings.kind == "logmel"
    maps = Features(settings)(0.1 * torch.randn(3, 16_000) * torch.tensor([[1.0], [0.1], [0.01]]))
    torch.testing.assert_close(maps.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.std(dim=(1, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_cnn4_shifts_adds_noise_masks_and_mixes() -> None:
    settings, draws = recipe("cnn4").augment, torch.arange(500)
    sounds = Sounds(noise=NoiseBank([torch.ones(20_000, dtype=torch.int16)], clip_samples=16_000))
    augments = [
        *wave_augmentation(settings, sounds, seed=0, sample_rate_hz=16_000, pad="end"),
        *feature_augmentation(settings, seed=0),
    ]
    amounts: dict[str, Tensor] = {}
    for augment in augments:
        amounts |= augment.amounts(draws)  # pyright: ignore
    for name in ("shift_samples", "noise_amplitude", "time_mask_frames", "frequency_mask_bins", "mixup_share"):
        assert (amounts[name].nan_to_num() != 0).float().mean() > 0.3, name
    assert any(isinstance(augment, Mix) for augment in augments)


def test_cnn4_draws_words_equally_often_or_weights_the_loss(tmp_path: Path) -> None:
    """Of one word there are three times as many recordings as of the other."""
    assert recipe("cnn4").data.balance == 1
    files = tiny_corpus.files(("no", "yes"), speakers=12)
    few = {name: data for name, data in files.items() if not (name.startswith("yes/") and int(name[4:12], 16) > 6)}
    shards = tiny_corpus.shards_of(tiny_corpus.pack(tmp_path / "few.tar.gz", few), tmp_path / "shards")
    assert torch.bincount(torch.as_tensor(open_dataset(shards).rows("train").label)).tolist() == [7, 2]
    weighted = ("--data.balance", "0", "--train.class_weights", "balanced")
    for name, flags in {"drawn": (), "weighted": weighted, "bf16": (*weighted, "--train.precision", "bf16")}.items():
        run_dir = train_recipe("cnn4", shards, tmp_path / name, *flags)
        assert_judged_on_the_test_set(run_dir, classes=2, clips=6)


def test_the_checkpoint_of_cnn4_alone_rebuilds_the_model(trained: Train, tmp_path: Path) -> None:
    run_dir = trained("cnn4")
    assert_judged_on_the_test_set(run_dir, classes=3, clips=9)
    (run_dir / "checkpoints" / "best").rename(tmp_path / "alone")
    alone = rebuild_from(checkpoint.load(tmp_path / "alone"))
    (tmp_path / "alone").rename(run_dir / "checkpoints" / "best")
    assert alone.words == ("no", "up", "yes")
    assert alone.config.model.params["channels"] == 2
    features, whole = torch.randn(4, 1, 40, 101), rebuild(run_dir)
    assert torch.equal(alone.model.eval()(features), whole.model.eval()(features))


@pytest.mark.slow
def test_cnn4_trains_compiled(tiny_dataset: Path, tmp_path: Path) -> None:
    run_dir = train_recipe("cnn4", tiny_dataset, tmp_path / "run", "--train.compile")
    assert_judged_on_the_test_set(run_dir, classes=3, clips=9)
