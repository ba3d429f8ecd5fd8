"""`tools/runs.py models`: what the figures of a model mean, on layers whose figures can be worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launching import python, run
from torch import Tensor, nn
from torch.nn import functional as F

from kws_dist import models
from kws_dist.config import Config, DataConfig, FeaturesConfig, ModelConfig
from kws_dist.errors import UsageError
from kws_dist.model_figures import activation_bytes, count_macs, latencies_ms, receptive_frames
from kws_dist.model_table import measure, recipes

CPU = torch.device("cpu")


class Over(nn.Module):
    """A model that is one function of features `(B, 1, bins, frames)`, with layers."""

    def __init__(self, call: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.call = nn.ModuleList(layers), call

    def forward(self, features: Tensor) -> Tensor:
        return self.call(features.squeeze(1))

    def encode(self, features: Tensor) -> Tensor:
        return self(features)


class Attention(nn.Module):
    """Attention of one head over the frames `(B, frames, bins)`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def in_sequence(*layers: nn.Module, by_frame: bool = False) -> Over:
    """Layers one after the other, of `(B, bins, frames)`, or of `(B, frames, bins)`; the states of an RNN are left."""

    def call(x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if by_frame else x
        for layer in layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x.transpose(1, 2) if by_frame else x

    return Over(call, *layers)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("layer", "by_frame", "macs"),
    [
        (nn.Conv1d(8, 16, 3, padding=1), False, 16 * 20 * 8 * 3),
        (nn.Conv1d(8, 8, 5, groups=8, stride=2), False, 8 * 8 * 5),
        (nn.Linear(8, 7), True, 20 * 8 * 7),
        (nn.GRU(8, 6, batch_first=True), True, 20 * 3 * 6 * (8 + 6)),
        (nn.GRU(8, 6, num_layers=2, bidirectional=True, batch_first=True), True, 20 * 2 * 3 * 6 * (8 + 6 + 12 + 6)),
        (nn.LSTM(8, 6, batch_first=True), True, 20 * 4 * 6 * (8 + 6)),
        (nn.LSTM(8, 6, bidirectional=True, batch_first=True), True, 2 * 20 * 4 * 6 * (8 + 6)),
        (nn.LSTM(8, 6, proj_size=2, batch_first=True), True, 20 * (4 * 6 * (8 + 2) + 2 * 6)),
        (Attention(), True, 2 * 20 * 20 * 8),
        (nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), True, 20 * (4 * 8 * 8 + 2 * 8 * 32) + 2 * 20 * 20 * 8),
        (nn.BatchNorm1d(8), False, 0),
        (nn.MaxPool1d(2), False, 0),
    ],
)
def test_macs_are_those_of_the_formula(layer: nn.Module, by_frame: bool, macs: int) -> None:
    features = torch.randn(1, 1, 8, 20)
    assert count_macs(in_sequence(layer, by_frame=by_frame), features) == macs
    twice = in_sequence(layer, by_frame=by_frame)
    assert count_macs(twice, torch.randn(2, 1, 8, 20)) == 2 * macs


@pytest.mark.parametrize(
    ("tau", "convolutions", "paper"),
    [(1, 2.48, 3.1), (1.5, 4.61, 5.5), (2, 7.32, 8.5), (3, 14.5, 16.2), (6, 50.3, 53.1), (8, 85.9, 89.1)],
)
def test_macs_of_bcresnet_are_those_of_its_convolutions(tau: float, convolutions: float, paper: float) -> None:
    # `convolutions`: of the published definition, in millions, at 40 x 101. The paper's Table 3 has a little more, and
    # does not say what else it counts; the surplus grows with the width, so it is likely to be norms and activations.
    macs = count_macs(models.build("bcresnet", num_classes=12, tau=tau), torch.randn(1, 1, 40, 101)) / 1e6
    assert macs == pytest.approx(convolutions, rel=0.005)  # three digits
    assert 0.79 * paper < macs < paper


def convolutions(*kernels: tuple[int, int, int]) -> Callable[[int], nn.Module]:
    """Build convolutions of (kernel, stride, dilation), with norms and ReLUs between them."""

    def build(_frames: int) -> nn.Module:
        layers = []
        for kernel, stride, dilation in kernels:
            padding = dilation * (kernel // 2)
            layers += [nn.Conv1d(4, 4, kernel, stride, padding, dilation), nn.BatchNorm1d(4), nn.ReLU()]
        return in_sequence(*layers)

    return build


@pytest.mark.parametrize(
    ("kernels", "frames"),
    [
        ([(1, 1, 1)], 1),
        ([(3, 1, 1)], 3),
        ([(3, 1, 1), (5, 1, 2)], 3 + 8),
        ([(3, 2, 1), (3, 2, 1), (3, 1, 1)], 3 + 4 + 8),
        ([(9, 1, 8), (9, 1, 8)], 129),  # longer than the clip, so it is looked for in longer ones
        ([(9, 1, 16)] * 3, 385),
    ],
)
def test_the_receptive_field_is_that_of_the_formula(kernels: list[tuple[int, int, int]], frames: int) -> None:
    assert receptive_frames(convolutions(*kernels), bins=4, frames=101) == frames


def test_recurrence_and_attention_hear_the_whole_clip() -> None:
    for layer in (nn.GRU(4, 4, batch_first=True), nn.LSTM(4, 4, bidirectional=True, batch_first=True), Attention()):
        build = lambda _, layer=layer: in_sequence(layer, by_frame=True)  # noqa: E731
        assert receptive_frames(build, bins=4, frames=50) is None


def test_a_model_of_one_length_hears_the_whole_clip_if_it_hears_its_ends() -> None:
    def refuse(x: Tensor) -> Tensor:
        if x.shape[-1] != 20:
            raise UsageError("this one takes 20 frames")
        return x

    one_length = lambda layer: lambda _: Over(lambda x: layer(refuse(x)), layer)  # noqa: E731
    assert receptive_frames(one_length(nn.Conv1d(4, 4, 41, padding=20)), bins=4, frames=20) is None
    assert receptive_frames(one_length(nn.Conv1d(4, 4, 3, padding=1)), bins=4, frames=20) == 3


def test_the_state_of_the_random_numbers_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    receptive_frames(convolutions((3, 1, 1)), bins=4, frames=20)
    assert torch.equal(torch.get_rng_state(), before)


def test_activations_count_once_and_weights_not_at_all() -> None:
    # The first layer keeps its input (100 numbers); ReLU and the second layer both keep the output of the ReLU (50).
    first, second = nn.Linear(100, 50), nn.Linear(50, 3)
    model = Over(lambda x: second(torch.relu(first(x.flatten(1)))), first, second)
    kept = activation_bytes(model, torch.randn(8, 1, 10, 10))
    softmax_and_label = 4 * 3 + 8
    assert kept == pytest.approx(4 * (100 + 50) + softmax_and_label, abs=8)


def test_latencies_are_those_of_the_calls_in_their_order() -> None:
    small, large = torch.randn(2, 2), torch.randn(700, 700)
    quick_ms, slow_ms = latencies_ms([lambda: small @ small, lambda: large @ large @ large], CPU)
    assert 0 < quick_ms < slow_ms


def config(name: str, features: FeaturesConfig | None = None, clip_seconds: float = 1.0) -> Config:
    """Settings of a model with small parameters."""
    params = {"hidden": 4, "layers": 1} if name == "gru" else {}
    data = DataConfig(clip_seconds=clip_seconds)
    return Config(data=data, features=features or FeaturesConfig(), model=ModelConfig(name=name, params=params))


def test_frames_become_milliseconds_by_hop_and_window() -> None:
    # Convolutions: head 5, then 3 with dilation 1 (x2), 2 (x2), 4 (x4) and 8 (x4), tail 5: 117 frames.
    row = measure("bc", config("bcresnet"), num_classes=12, device=CPU)
    assert row.receptive_field_ms == pytest.approx(116 * 10 + 30)
    assert row.parameters == 9232
    slower = FeaturesConfig(window_ms=25, hop_ms=20)
    row = measure("bc", config("bcresnet", slower, clip_seconds=2.0), num_classes=12, device=CPU)
    assert row.receptive_field_ms == pytest.approx(116 * 20 + 25)


def test_a_model_is_as_wide_as_its_features_and_their_time_counts() -> None:
    row = measure("gru", config("gru", FeaturesConfig(mels=16)), num_classes=3, device=CPU)
    assert row.receptive_field_ms is None
    assert row.macs == 101 * (2 * 3 * 4 * (16 + 4) + 8) + 8 * 3  # GRU, attention scores, classifier
    assert row.latency_ms > 0
    assert row.latency_with_features_ms > 0
    assert row.activation_mb > 4 * 16 * 101 / 1e6


def test_every_recipe_and_every_model_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("model: {name: gru, params: {hidden: 4}}")
    found = recipes(tmp_path)
    assert list(found) == ["small", *(name for name in models.list_models() if name != "gru")]
    assert list(recipes(tmp_path, ["gru"])) == ["small"]
    assert list(recipes(tmp_path, ["bcresnet", "small"])) == ["bcresnet", "small"]
    assert recipes(Path("nowhere"), [str(tmp_path / "small.yaml")])["small"].model.params == {"hidden": 4}
    with pytest.raises(UsageError, match="'smal'; perhaps you meant 'small'"):
        recipes(tmp_path, ["smal"])


def test_the_tool_prints_a_table_and_writes_the_figures(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("model: {name: gru, params: {hidden: 4, layers: 1}}")
    command = ["models", tmp_path / "tiny.yaml", "--num_classes", "3", "--json", tmp_path / "out.json"]
    said = run(python("tools/runs.py", *command)).stdout
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert (row["name"], row["model"], row["receptive_field_ms"]) == ("tiny", "gru", None)
    (line,) = [line.split() for line in said.splitlines() if line.split()[:1] == ["tiny"]]
    assert line[1] == f"{row['parameters']:,}"
    assert line[3] == "clip"


def test_a_recipe_that_cannot_be_built_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("model: {name: gru, params: {hidden: 4}}")
    (tmp_path / "bad.yaml").write_text("features: {mels: 33}")
    done = run(python("tools/runs.py", "models", tmp_path / "good.yaml", tmp_path / "bad.yaml"), expect=1)
    assert "bad: bcresnet needs a multiple of 40 mel bins" in done.stdout
    assert "good" in done.stdout
    assert "nobody" in run(python("tools/runs.py", "models", "nobody"), expect=2).stderr
