"""What counts as a layer, where modules hold several: freezing and layer-wise rates go by it."""

import pytest
import torch
from torch import nn

from kws_dist import models
from kws_dist.config import TrainConfig
from kws_dist.models.layers import from_last_block, layers
from kws_dist.training.optim import parameter_groups
from kws_dist.training.transfer import freeze, frozen_modules


def directions(stack: str, layer: int, count: int) -> set[str]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {f"{stack}.{kind}_l{layer}{end}" for kind in kinds for end in ("", "_reverse")[:count]}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_layer_of_a_stacked_rnn_is_one_with_all_its_directions(cell: str, bidirectional: bool) -> None:
    model = models.build("rnn", num_classes=3, cell=cell, layers=3, bidirectional=bidirectional, hidden=8)
    expected = [directions("rnn", layer, 1 + bidirectional) for layer in range(3)]
    assert [set(layer) for layer in layers(model)] == [*expected, {"classifier.weight", "classifier.bias"}]


def test_the_last_block_of_a_stacked_rnn_is_its_last_layer() -> None:
    """Of two layers of an RNN, training the last block and the classifier is not training everything."""
    for name in ("rnn", "cnn_lstm"):
        model = models.build(name, num_classes=3)
        last = {parameter for layer in layers(model)[-from_last_block(model) :] for parameter in layer}
        stack = "rnn" if name == "rnn" else "lstm"
        assert last == directions(stack, 1, 1) | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("size", ["stream", "S"])
def test_dense_layers_are_no_blocks_so_the_last_block_of_a_crnn_is_its_last_gru_layer(size: str) -> None:
    model = models.build("crnn", num_classes=3, size=size)
    last = {parameter for layer in layers(model)[-from_last_block(model) :] for parameter in layer}
    dense = {f"dense.{i}.{kind}" for i in range(2 if size == "stream" else 1) for kind in ("weight", "bias")}
    gru = directions("gru", 0 if size == "stream" else 1, 1)
    assert last == gru | dense | {"classifier.weight", "classifier.bias"}


def test_a_recurrent_layer_alone_is_a_block() -> None:
    model = models.build("cnn_lstm", num_classes=3, layers=1)
    last = {parameter for layer in layers(model)[-from_last_block(model) :] for parameter in layer}
    assert last == directions("lstm", 0, 1) | {"classifier.weight", "classifier.bias"}


def test_stacked_layers_have_rates_of_their_own() -> None:
    model = models.build("rnn", num_classes=3, bidirectional=True, hidden=8)
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, TrainConfig(layer_decay=0.5))
    scale = {of[id(parameter)]: group["scale"] for group in groups for parameter in group["params"]}
    assert {scale[name] for name in directions("rnn", 0, 2)} == {0.25}
    assert {scale[name] for name in directions("rnn", 1, 2)} == {0.5}
    assert scale["classifier.bias"] == 1.0


def test_an_rnn_that_is_frozen_in_part_learns_in_the_other_and_still_drops_out() -> None:
    model = models.build("rnn", num_classes=3, hidden=8, dropout=0.5)
    freeze(model, TrainConfig(train_last_layers=2))
    model.train()
    for module in frozen_modules(model):
        module.eval()
    features = torch.randn(4, 1, 40, 20)
    once, again = model(features), model(features)
    assert not torch.equal(once, again)
    assert isinstance(model.rnn, nn.LSTM)
    once.sum().backward()
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learns == directions("rnn", 1, 1) | {"classifier.weight", "classifier.bias"}
    assert not model.rnn.weight_ih_l0.requires_grad
