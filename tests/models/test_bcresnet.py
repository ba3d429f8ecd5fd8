"""Promises of BC-ResNet: the published sizes, and the published function whatever the layout of the maps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kws_dist.errors import UsageError
from kws_dist.models import bcresnet, build

# (tau, parameters with 12, 30 and 35 classes); 12 classes: arXiv 2106.04140, Table 3.
BCRESNET_SIZES = [
    (1, 9_232, 9_826, 9_991),
    (1.5, 17_154, 18_036, 18_281),
    (2, 27_284, 28_454, 28_779),
    (3, 54_168, 55_914, 56_399),
    (6, 187_812, 191_286, 192_251),
    (8, 321_068, 325_694, 326_979),
]


def _features(batch: int, frames: int = 101, mels: int = 40, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random features with the offset and spread of log-mel energies."""
    generator = torch.Generator().manual_seed(batch * 1000 + frames)
    return torch.randn(batch, 1, mels, frames, generator=generator, dtype=dtype) * 3 - 5


# --- The plain BC-ResNet, on (B, C, F, T) with torch's own layers, for the weights of a given model ---


def _plain_norm(norm: bcresnet.RowNorm, x: Tensor, bands: int = 1) -> Tensor:
    b, c, f, t = x.shape
    bn = norm.norm
    stats = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    return F.batch_norm(x.reshape(b, c * bands, f // bands, t), *stats, bn.training, 0.1).view(b, c, f, t)


def _plain_block(block: bcresnet.BCResBlock, x: Tensor) -> Tensor:
    residual = x
    if block.is_transition:
        x = F.relu(_plain_norm(block.expand_norm, F.conv2d(x, block.expand.weight[:, :, None, None])))
    channels, dilation = x.shape[1], block.time_conv.dilation
    freq_weight = block.freq_conv.weight.view(channels, 1, 3, 1)
    x = F.conv2d(x, freq_weight, None, (block.freq_conv.stride, 1), (1, 0), 1, channels)
    x = wide = _plain_norm(block.freq_norm, x, bands=5)
    x = F.adaptive_avg_pool2d(x, (1, None))
    time_weight = block.time_conv.weight.view(channels, 1, 1, 3)
    x = F.conv2d(x, time_weight, None, 1, (0, dilation), (1, dilation), channels)
    x = F.silu(_plain_norm(block.time_norm, x))
    x = F.conv2d(x, block.mix.weight[:, :, None, None])
    x = wide + block.dropout(x)
    return F.relu(x if block.is_transition else x + residual)


def _plain_forward(model: bcresnet.BCResNet, x: Tensor) -> Tensor:
    x = F.relu(_plain_norm(model.head_norm, model.head(x)))
    for block in model.blocks:
        x = _plain_block(block, x)
    channels = x.shape[1]
    x = F.conv2d(x, model.tail.weight.view(channels, 1, 5, 5), None, 1, (0, 2), 1, channels)
    x = F.relu(_plain_norm(model.tail_norm, F.conv2d(x, model.tail_mix.weight[:, :, None, None])))
    return model.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _bcresnet_pair(tau: float, dtype: torch.dtype) -> tuple[bcresnet.BCResNet, bcresnet.BCResNet]:
    """Two copies of one model without dropout, its norms moved away from the identity."""
    torch.manual_seed(0)
    model = bcresnet.BCResNet(12, tau=tau, dropout=0.0).to(dtype)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.05)
    return model, copy.deepcopy(model)


# --- Sizes and the function ---


@pytest.mark.parametrize(("tau", "twelve", "thirty", "thirty_five"), BCRESNET_SIZES)
def test_bcresnet_has_exactly_the_published_number_of_parameters(tau, twelve, thirty, thirty_five):
    for num_classes, expected in ((12, twelve), (30, thirty), (35, thirty_five)):
        model = build("bcresnet", num_classes=num_classes, tau=tau)
        assert sum(param.numel() for param in model.parameters()) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("tau", "batch", "frames", "mels"), [(1, 6, 101, 40), (1.5, 3, 98, 40), (2, 5, 33, 80)])
def test_bcresnet_computes_the_plain_formulation(tau, batch, frames, mels, training):
    ours, plain = _bcresnet_pair(tau, torch.float64)
    x = _features(batch, frames, mels, torch.float64)
    logits = ours.train(training)(x)
    expected = _plain_forward(plain.train(training), x)
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=1e-10)
    labels = torch.arange(batch) % 12
    grads = torch.autograd.grad(F.cross_entropy(logits, labels), list(ours.parameters()))
    expected_grads = torch.autograd.grad(F.cross_entropy(expected, labels), list(plain.parameters()))
    torch.testing.assert_close(grads, expected_grads, atol=1e-9, rtol=1e-7)
    for name, buffer in ours.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, plain.get_buffer(name), atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_bcresnet_computes_the_plain_formulation_in_single_precision(training):
    ours, plain = _bcresnet_pair(1, torch.float32)
    x = _features(8)
    logits, expected = ours.train(training)(x), _plain_forward(plain.train(training), x)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "padding", "stride"), [(3, 1, 1), (3, 1, 2), (5, 0, 1)])
def test_a_band_matrix_is_the_convolution(kernel, padding, stride):
    weight, x = torch.randn(4, kernel), torch.randn(1, 4, 20)
    matrix = bcresnet._band_matrix(weight, 20, padding=padding, stride=stride)
    expected = F.conv1d(x, weight[:, None], None, stride, padding, groups=4)
    torch.testing.assert_close((matrix @ x[0, :, :, None])[..., 0], expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dilation", "frames"), [(1, 20), (8, 20), (8, 5)])
def test_a_time_convolution_stays_within_its_clip(dilation, frames):
    conv, x = bcresnet.TimeConv(4, dilation), torch.randn(4, 3, frames)
    expected = F.conv1d(x.transpose(0, 1), conv.weight[:, None], None, 1, dilation, dilation, groups=4)
    torch.testing.assert_close(conv(x), expected.transpose(0, 1), atol=1e-6, rtol=1e-5)


def test_row_norm_hands_over_to_a_norm_put_in_its_place():
    norm = bcresnet.RowNorm(4)
    norm.norm.momentum = None  # as torch.optim.swa_utils.update_bn sets it: the mean over all batches
    batches = [torch.randn(4, 5, 6) for _ in range(3)]
    for x in batches:
        norm(x)
    expected = torch.stack([x.flatten(1).mean(1) for x in batches]).mean(0)
    torch.testing.assert_close(norm.norm.running_mean, expected)


def test_bcresnet_dropout_drops_whole_channels_of_a_clip():
    block = bcresnet.BCResBlock(8, 8, 1, 1, 0.5)
    dropped = block._f1(torch.randn(8, 32, 7)) == 0
    assert torch.equal(dropped.any(dim=2), dropped.all(dim=2))
    assert 0.3 < dropped.float().mean() < 0.7


def test_state_dict_keys_are_those_of_existing_checkpoints():
    norm = ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]

    def norms(*prefixes: str) -> set[str]:
        return {f"{prefix}.{key}" for prefix in prefixes for key in norm}

    keys = set(build("bcresnet", num_classes=12).state_dict())
    outside = {key for key in keys if not key.startswith("blocks.")}
    weights = {"head.weight", "tail.weight", "tail_mix.weight", "classifier.weight", "classifier.bias"}
    assert outside == weights | norms("head_norm", "tail_norm")
    convs = {"freq_conv.weight", "time_conv.weight", "mix.weight"}
    for index in range(12):
        block = {key.removeprefix(f"blocks.{index}.") for key in keys if key.startswith(f"blocks.{index}.")}
        transition = {"expand.weight"} | norms("expand_norm") if index in (0, 2, 4, 8) else set()
        assert block == convs | norms("freq_norm", "time_norm") | transition


@pytest.mark.parametrize("training", [True, False])
def test_two_frames_are_enough_and_one_is_refused(training):
    model = build("bcresnet", num_classes=3).train(training)
    assert model(_features(1, frames=2)).isfinite().all()
    with pytest.raises(UsageError, match="2 frames or more, got 1"):
        model(_features(3, frames=1))
