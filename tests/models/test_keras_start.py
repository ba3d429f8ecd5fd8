"""What weights begin with where the published recipe was run in Keras."""

import math

import pytest
import torch
from torch import Tensor, nn

from kws_dist.models import build
from kws_dist.models.keras_start import begin_as_keras

NAMES = ("att_rnn", "mhatt_rnn", "crnn")


def _recurrent(name: str) -> nn.RNNBase:
    (found,) = [module for module in build(name, num_classes=12).modules() if isinstance(module, nn.RNNBase)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_recurrent_weights_are_orthogonal_and_the_others_glorots(name: str) -> None:
    for key, weight in _recurrent(name).state_dict().items():
        if key.startswith("weight_hh"):
            torch.testing.assert_close(weight.T @ weight, torch.eye(weight.shape[1]), atol=1e-5, rtol=0)
        elif key.startswith("weight_ih"):
            assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / sum(weight.shape)), rel=0.01)


def test_the_forget_gates_of_an_lstm_are_open_and_all_other_biases_zero() -> None:
    lstm = _recurrent("att_rnn")
    for layer in ("l0", "l0_reverse", "l1", "l1_reverse"):
        bias: Tensor = lstm.get_parameter(f"bias_ih_{layer}") + lstm.get_parameter(f"bias_hh_{layer}")
        into, forget, new, out = bias.detach().chunk(4)
        assert (into.tolist(), forget.tolist()) == ([0.0] * 64, [1.0] * 64)
        assert (new.tolist(), out.tolist()) == ([0.0] * 64, [0.0] * 64)


def test_layers_of_convolutions_and_matrices_are_glorots_without_biases() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, (3, 5)), nn.Conv1d(4, 6, 7), nn.Linear(30, 20))
    begin_as_keras(model)
    for layer, fans in zip(model, (10 * 15, 10 * 7, 50), strict=True):
        assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.05)
        assert layer.bias.abs().max().item() == 0


@pytest.mark.parametrize("name", ["att_rnn", "mhatt_rnn"])
def test_norms_are_those_of_keras(name: str) -> None:
    norms = [module for module in build(name, num_classes=12).modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-3, 0.01)] * 2
