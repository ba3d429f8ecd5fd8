"""Promises of M5: the tutorial's layers, and a function of the raw waveform."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.frontend.features import build_features
from kws_dist.frontend.presets import preset
from kws_dist.models.m5 import build


def _waves(batch: int = 3, samples: int = 8000) -> Tensor:
    return 0.1 * torch.randn(batch, 1, 1, samples, generator=torch.Generator().manual_seed(samples))


def test_the_paper_s_widths_and_stride_can_be_had() -> None:
    """Table 1 of arXiv 1610.00087, M5 (0.5 M): [80/4, 128], pool, [3, 128], pool, [3, 256], pool, [3, 512], pool.

    The tutorial's last block is half as wide, so that only the first three agree.
    """
    convs = [module for module in build(10, channels=128, stride=4).modules() if isinstance(module, nn.Conv1d)]
    assert [tuple(conv.weight.shape) for conv in convs[:3]] == [(128, 1, 80), (128, 128, 3), (256, 128, 3)]
    assert convs[0].stride == (4,)


def test_blocks_are_convolution_batch_norm_relu_and_max_pool() -> None:
    blocks = build(35).blocks
    assert [[type(layer) for layer in block] for block in blocks] == [
        [nn.Conv1d, nn.BatchNorm1d, nn.ReLU, nn.MaxPool1d]
    ] * 4
    assert [tuple(block[0].weight.shape) for block in blocks] == [(32, 1, 80), (32, 32, 3), (64, 32, 3), (64, 64, 3)]
    assert [block[0].stride for block in blocks] == [(16,), (1,), (1,), (1,)]
    assert [block[3].kernel_size for block in blocks] == [4] * 4


def test_the_logits_are_those_of_the_tutorial_s_functions() -> None:
    model, waves = build(35), _waves(6)
    model(waves)  # running statistics away from their start
    model.eval()
    x = waves[:, 0]  # (B, 1, samples), as the tutorial has it
    for conv, norm, _, pool in model.blocks:
        x = F.conv1d(x, conv.weight, conv.bias, stride=conv.stride)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        x = F.max_pool1d(F.relu(x), pool.kernel_size)
    x = F.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)
    expected = F.linear(x, model.classifier.weight, model.classifier.bias).squeeze(1)
    torch.testing.assert_close(model(waves), expected)


@pytest.mark.parametrize(("samples", "frames"), [(8000, 1), (16_000, 3), (24_000, 5)])
def test_encode_gives_the_sequence_before_the_average(samples: int, frames: int) -> None:
    model, waves = build(35).eval(), _waves(2, samples)
    encoded = model.encode(waves)
    assert encoded.shape == (2, 64, frames)
    torch.testing.assert_close(model.classifier(encoded.mean(dim=2)), model(waves))


@pytest.mark.parametrize("stride", [4, 16])
def test_the_shortest_clip_is_one_frame_and_one_sample_less_is_refused(stride: int) -> None:
    model = build(35, stride=stride).eval()
    assert model.encode(_waves(2, model.least_samples)).shape[2] == 1
    with pytest.raises(UsageError, match=f"m5 needs clips of {model.least_samples} samples or more, got"):
        model(_waves(2, model.least_samples - 1))


def test_it_starts_from_the_raw_waveform_at_8_khz() -> None:
    """The preset resamples a second at 16 kHz and does nothing else; a tone of 1 kHz stays one."""
    features = build_features(**preset("m5"), sample_rate_hz=16_000)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    waves = features(tone[None])
    assert waves.shape == (1, 1, 1, 8000)
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000)
    torch.testing.assert_close(waves[0, 0, 0, 100:-100], expected[100:-100], atol=2e-3, rtol=0)
    assert build(35)(features(torch.randn(4, 16_000))).shape == (4, 35)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build(35, channels=0), "m5 needs channels of 1 or more, got 0"),
        (lambda: build(35, stride=0), "m5 needs stride of 1 or more, got 0"),
        (lambda: build(35, dropout=1.0), "m5 needs dropout of 0 or more and below 1, got 1"),
        (
            lambda: build(35)(torch.zeros(2, 1, 40, 101)),
            "m5 needs the waveform as 1 bin (--features.preset m5), got 40 feature bins",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
