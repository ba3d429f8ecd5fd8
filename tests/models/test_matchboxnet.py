"""Promises of MatchboxNet: the published layers, and the plain one-dimensional function whatever the layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import build, matchboxnet


def _features(batch: int, mels: int = 64, frames: int = 101) -> Tensor:
    return torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(batch + frames))


# --- The plain MatchboxNet, on (B, C, T) with one-dimensional convolutions, for the weights of a given model ---


def _plain_pointwise(layer: matchboxnet.PointwiseConv, x: Tensor) -> Tensor:
    norm = layer.norm
    y = F.conv1d(x, layer.conv.weight.squeeze(3))
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, norm.eps)


def _plain_separable(layer: matchboxnet.SeparableConv, x: Tensor) -> Tensor:
    weight = layer.time.weight.squeeze(3)
    padding = layer.dilation * (weight.shape[2] - 1) // 2
    y = F.conv1d(x, weight, None, 1, padding, layer.dilation, x.shape[1])
    return _plain_pointwise(layer.mix, y)


def _plain_forward(model: matchboxnet.MatchboxNet, features: Tensor) -> Tensor:
    x = F.relu(_plain_separable(model.head, features.squeeze(1)))
    for block in model.blocks:
        y = x
        for number, layer in enumerate(block.layers):
            y = _plain_separable(layer, F.relu(y) if number else y)
        x = F.relu(y + _plain_pointwise(block.shortcut, x))
    x = F.relu(_plain_separable(model.tail, x))
    return model.classifier(F.relu(_plain_pointwise(model.mix, x)).mean(dim=2))


def _logits_and_gradients(model: nn.Module, logits: Tensor) -> list[Tensor]:
    model.zero_grad()
    F.cross_entropy(logits.double(), torch.arange(6)).backward()
    return [logits.detach(), *[parameter.grad.clone() for parameter in model.parameters()]]


@pytest.mark.parametrize("frames", [100, 101, 128])
@pytest.mark.parametrize(("blocks", "repeats"), [(3, 1), (2, 3)])
def test_it_is_the_plain_function_and_so_are_its_gradients(blocks, repeats, frames):
    torch.manual_seed(0)
    model = build("matchboxnet", num_classes=6, blocks=blocks, repeats=repeats).double()
    x = _features(6, frames=frames).double()
    ours = _logits_and_gradients(model, model(x))
    for here, there in zip(ours, _logits_and_gradients(model, _plain_forward(model, x)), strict=True):
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("bf16", [False, True])
def test_in_less_precision_the_gradients_point_the_same_way(bf16):
    torch.manual_seed(0)
    model = build("matchboxnet", num_classes=6)
    x = _features(6)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(x)
    rough = _logits_and_gradients(model, logits)
    exact = _logits_and_gradients(model.double(), _plain_forward(model, x.double()))
    cosine = F.cosine_similarity(*(torch.cat([g.double().flatten() for g in of[1:]]) for of in (rough, exact)), dim=0)
    assert cosine > (0.95 if bf16 else 0.9999)


@pytest.mark.parametrize(
    ("blocks", "repeats", "taps"),
    [
        (3, 1, [11, 13, 15, 17, 29]),
        (3, 2, [11, 13, 13, 15, 15, 17, 17, 29]),
        (6, 2, [11, 13, 13, 15, 15, 17, 17, 19, 19, 21, 21, 23, 23, 29]),
    ],
)
def test_kernels_are_the_published_ones(blocks, repeats, taps):
    model = build("matchboxnet", num_classes=35, blocks=blocks, repeats=repeats)
    layers = [module for module in model.modules() if isinstance(module, matchboxnet.SeparableConv)]
    assert [layer.time.kernel_size[0] for layer in layers] == taps
    assert [layer.dilation for layer in layers] == [1] * (len(taps) - 1) + [2]


def test_the_receptive_field_is_that_of_the_kernels():
    model = build("matchboxnet", num_classes=12).eval()
    x = _features(1, frames=161).requires_grad_()
    model.encode(x)[0, :, 80].sum().backward()
    frames = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    reach = (11 - 1 + 13 - 1 + 15 - 1 + 17 - 1) // 2 + (29 - 1)
    assert (frames.min(), frames.max()) == (80 - reach, 80 + reach)


def test_the_encoding_is_what_is_pooled_over_time():
    model = build("matchboxnet", num_classes=12).eval()
    x = _features(3)
    encoding = model.encode(x)
    assert encoding.shape == (3, 128, 101)
    torch.testing.assert_close(model(x), model.classifier(encoding.mean(dim=2)), atol=1e-5, rtol=1e-5)


def test_weights_begin_as_xavier_drew_them():
    """A pointwise layer's from +-sqrt(6 / (in + out)): NeMo's init_mode, which its learning rate expects."""
    weight = build("matchboxnet", num_classes=12).get_parameter("mix.conv.weight")
    bound = (6 / (128 + 128)) ** 0.5
    assert 0.95 * bound < weight.abs().max() <= bound


def test_dropout_is_after_every_layer():
    model = build("matchboxnet", num_classes=12, dropout=0.5)
    assert not torch.equal(model(_features(4)), model(_features(4)))
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.5}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build("matchboxnet", num_classes=12, blocks=0), "matchboxnet needs blocks of 1 or more, got 0"),
        (
            lambda: build("matchboxnet", num_classes=12, dropout=1),
            "matchboxnet needs dropout of 0 or more and below 1, got 1",
        ),
        (
            lambda: build("matchboxnet", num_classes=12)(_features(2, mels=40)),
            "matchboxnet was built for mels=64, got 40 feature bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
