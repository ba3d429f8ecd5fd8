"""Promises of every architecture: what training and serving need, and what wrong use is told."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import build, list_models, list_params
from kws_dist.models.layers import from_last_block, layers
from kws_dist.training.average import MovingAverage


def _features(batch: int, frames: int = 101, mels: int = 40) -> Tensor:
    """Random features with the offset and spread of log-mel energies."""
    generator = torch.Generator().manual_seed(batch * 1000 + frames)
    return torch.randn(batch, 1, mels, frames, generator=generator) * 3 - 5


def _input(name: str, batch: int, frames: int = 101) -> Tensor:
    """Features as wide as the model's default, and as long as it takes; a waveform for M5."""
    if name == "m5":
        return _features(batch, 16_000 + frames, mels=1) / 10 + 0.5
    params = list_params(name)
    return _features(batch, int(str(params.get("frames", frames))), mels=int(str(params.get("mels", 40))))


def _without_dropout(name: str) -> dict[str, float]:
    return {"dropout": 0.0} if "dropout" in list_params(name) else {}


def _recurrent_layers(model: nn.Module) -> list[nn.RNNBase]:
    return [module for module in model.modules() if isinstance(module, nn.RNNBase)]


def _recurrent(name: str) -> bool:
    return bool(_recurrent_layers(build(name, num_classes=2)))


MODELS = pytest.mark.parametrize("name", list_models())

BF16_ALIKE = {"bcresnet": 0.6}
"""How alike gradients are, where not 0.95: in a new BC-ResNet each norm after the other enlarges what was rounded; the
plain layers of its paper give 0.74, this project's 0.73."""


@MODELS
@pytest.mark.parametrize(("batch", "frames"), [(1, 98), (3, 99), (5, 100), (7, 101)])
def test_output_shape(name, batch, frames):
    logits = build(name, num_classes=12)(_input(name, batch, frames))
    assert logits.shape == (batch, 12)
    assert logits.dtype == torch.float32


@MODELS
def test_training_gives_every_parameter_a_finite_gradient(name):
    model = build(name, num_classes=12)
    F.cross_entropy(model(_input(name, 6)), torch.arange(6)).backward()
    for param_name, param in model.named_parameters():
        assert param.grad is not None, param_name
        assert param.grad.isfinite().all(), param_name
        assert param.grad.abs().sum() > 0, param_name


@MODELS
def test_in_eval_a_clip_does_not_depend_on_its_batch(name):
    model = build(name, num_classes=12)
    model(_input(name, 8))  # running statistics away from their start
    model.eval()
    x = _input(name, 5)
    together = model(x)
    alone = torch.cat([model(clip[None]) for clip in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@MODELS
def test_bf16_autocast_trains_and_stays_near_fp32(name):
    """What bf16 changes is small beside what tells clips apart, and the weights would go the same way."""
    torch.manual_seed(0)
    model = build(name, num_classes=12, **_without_dropout(name))
    x = _input(name, 24)

    def answers(precision: torch.dtype) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(x).float()
        F.cross_entropy(logits, torch.arange(24) % 12).backward()
        return logits.detach(), torch.cat([param.grad.flatten() for param in model.parameters()])

    (exact, gradient), (rounded, rounded_gradient) = answers(torch.float32), answers(torch.bfloat16)
    assert (rounded - exact).norm() < 0.25 * (exact - exact.mean(0)).norm()
    assert F.cosine_similarity(gradient, rounded_gradient, dim=0) > BF16_ALIKE.get(name, 0.95)


@pytest.mark.parametrize("name", [name for name in list_models() if _recurrent(name)])
def test_recurrent_layers_are_given_what_cudnn_takes_as_it_is(name):
    """Frames side by side in memory; a view that is only turned would be copied, or refused, behind the scenes."""
    model = build(name, num_classes=12)
    given: list[Tensor] = []
    for layer in _recurrent_layers(model):
        assert layer.batch_first
        layer.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0]))
    model(_input(name, 3))
    assert given
    assert all(frames.is_contiguous() for frames in given)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in list_models() if _recurrent(name)])
def test_recurrent_weights_are_one_piece_on_a_gpu_and_in_the_average(name, recwarn):
    """Else cuDNN joins them anew for each batch, which it warns of."""
    model = build(name, num_classes=12).cuda()
    MovingAverage(model, 0.9).module(_input(name, 3).cuda())
    model(_input(name, 3).cuda())
    assert [str(one.message) for one in recwarn if "contiguous chunk" in str(one.message)] == []


@MODELS
def test_the_same_seed_trains_to_the_same_bits(name):
    def train() -> nn.Module:
        torch.manual_seed(3)
        model = build(name, num_classes=12)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(_input(name, 6)), torch.arange(6)).backward()
            optimizer.step()
        return model

    first, second = train().state_dict(), train().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@MODELS
def test_state_dict_loads_strictly_into_a_fresh_model(name):
    saved, fresh = build(name, num_classes=12), build(name, num_classes=12)
    saved(_input(name, 4))
    fresh.load_state_dict(saved.state_dict(), strict=True)
    assert torch.equal(saved.eval()(_input(name, 2)), fresh.eval()(_input(name, 2)))


@MODELS
def test_the_sequence_before_pooling_can_be_had(name):
    sequence = build(name, num_classes=12).eval().encode(_input(name, 3))
    assert sequence.dim() == 3
    assert len(sequence) == 3
    assert sequence.shape[2] > 1


@MODELS
def test_the_last_layer_has_a_row_for_each_word(name):
    model = build(name, num_classes=12)
    assert isinstance(model.classifier, nn.Linear)
    assert model.classifier.out_features == 12
    assert layers(model)[-1] == ("classifier.weight", "classifier.bias")


@MODELS
def test_layers_are_in_the_order_of_the_data(name):
    """A layer that is trained alone, while those before it are frozen, gets gradients only from what is behind it."""
    model = build(name, num_classes=12, **_without_dropout(name))
    ran: list[str] = []
    names = {parameter: parameter_name for parameter_name, parameter in model.named_parameters()}
    for module in model.modules():
        own = [names[parameter] for parameter in module.parameters(recurse=False)]
        module.register_forward_pre_hook(lambda *_, own=own: ran.extend(own))
    model(_input(name, 3))
    of_layers = layers(model)
    at = {parameter: number for number, layer in enumerate(of_layers) for parameter in layer}
    assert sorted(at) == sorted(names.values())
    order = [at[parameter] for parameter in ran]
    assert order == sorted(order)


@MODELS
def test_the_last_block_and_the_classifier_are_a_part_of_the_model(name):
    model = build(name, num_classes=12)
    assert 2 <= from_last_block(model) <= len(layers(model))


@MODELS
def test_a_model_for_one_word_less_differs_in_the_classifier_alone(name):
    twelve, eleven = (build(name, num_classes=count).state_dict() for count in (12, 11))
    assert {key for key in twelve if twelve[key].shape != eleven[key].shape} == {"classifier.weight", "classifier.bias"}


@MODELS
def test_dropout_is_refused_where_it_is_no_share(name):
    if "dropout" in list_params(name):
        with pytest.raises(UsageError, match=f"^{name} needs dropout of 0"):
            build(name, num_classes=12, dropout=1.5)


@pytest.mark.parametrize(
    ("params", "expected"), [({}, 430_429), ({"bidirectional": False}, 166_109), ({"layers": 1}, 133_981)]
)
def test_gru_sizes(params, expected):
    assert sum(param.numel() for param in build("gru", num_classes=12, **params).parameters()) == expected


def test_a_switch_may_be_a_word_as_a_command_line_has_it():
    sizes = [
        sum(param.numel() for param in build("gru", num_classes=12, bidirectional=value).parameters())
        for value in ("false", False, "true", True)
    ]
    assert sizes == [166_109, 166_109, 430_429, 430_429]


def test_gru_does_not_mind_the_scale_of_the_features():
    model = build("gru", num_classes=12, dropout=0.0)
    torch.testing.assert_close(model(_features(8)), model(_features(8) * 10 + 300), atol=1e-4, rtol=1e-4)


# --- Wrong use ---


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: build("bcresent", num_classes=12),
            "no model is called 'bcresent'; perhaps you meant 'bcresnet'; choose from att_rnn, bcresnet, "
            "cnn4, cnn_lstm, crnn, ds_cnn, gru, kwt, m5, matchboxnet, mhatt_rnn, res15, rnn, tc_resnet",
        ),
        (
            lambda: build("bcresnet", num_classes=12, tua=2),
            "model 'bcresnet' has no parameter 'tua'; perhaps you meant 'tau'; choose from tau, dropout",
        ),
        (
            lambda: build("gru", num_classes=12, hidden=2.5),
            "model 'gru' needs hidden to be a whole number, got 2.5",
        ),
        (
            lambda: build("gru", num_classes=12, bidirectional="nein"),
            "model 'gru' needs bidirectional to be true or false, got 'nein'",
        ),
        (
            lambda: build("bcresnet", num_classes=12, tau=float("inf")),
            "model 'bcresnet' needs tau to be a finite number, got inf",
        ),
        (lambda: build("gru", num_classes=0), "model 'gru' needs num_classes, a whole number of 1 or more, got 0"),
        (
            lambda: build("gru", num_classes=12, bidirectional=[1]),
            "model 'gru' needs bidirectional to be true or false, got [1]",
        ),
        (lambda: build("gru", num_classes=12, layers=0), "gru needs layers of 1 or more, got 0"),
        (
            lambda: build("bcresnet", num_classes=12, tau=0),
            "bcresnet needs tau of 0.125 or more (the paper: 1 to 8), got 0",
        ),
        (
            lambda: build("bcresnet", num_classes=12)(_features(2, mels=64)),
            "bcresnet needs a multiple of 40 mel bins (3 halvings, 5 bands), got 64",
        ),
        (
            lambda: build("gru", num_classes=12)(_features(2, mels=64)),
            "gru was built for mels=40, got 64 mel bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence


def test_list_params_names_what_build_accepts():
    assert list_params("bcresnet") == {"tau": 1.0, "dropout": 0.1}
    assert set(list_params("gru")) == {"mels", "hidden", "layers", "bidirectional", "dropout"}
