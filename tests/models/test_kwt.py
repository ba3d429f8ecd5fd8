"""Promises of the Keyword Transformer: what torch's own transformer layers compute."""

import pytest
import torch
from torch import Tensor, nn

from kws_dist.errors import UsageError
from kws_dist.models import kwt


def _features(batch: int, frames: int = 98, mels: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + frames)
    return torch.randn(batch, 1, mels, frames, generator=generator)


def _model(**params) -> kwt.KWT:
    """With weights larger than the first ones, so that what each layer does is felt."""
    torch.manual_seed(0)
    model = kwt.build(12, **params)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.1)
    return model


@pytest.mark.parametrize("size", [1, 2])
def test_it_computes_torchs_post_norm_transformer(size):
    model, x = _model(size=size, frames=20), _features(3, frames=20)
    tokens = model.tokens
    frames = tokens.projection(x[:, 0].transpose(1, 2))
    states = torch.cat([tokens.class_token.expand(3, 1, -1), frames], dim=1) + tokens.positions
    for block in model.blocks:
        states = _torch_layer(block, heads=size)(states)
    torch.testing.assert_close(model.encode(x), states.transpose(1, 2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(x), model.classifier(states[:, 0]), atol=1e-4, rtol=1e-4)


def _torch_layer(block: kwt.Block, heads: int) -> nn.TransformerEncoderLayer:
    width = block.combine.in_features
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True
    )
    layer.self_attn.in_proj_weight = block.query_key_value.weight
    nn.init.zeros_(layer.self_attn.in_proj_bias)
    layer.self_attn.out_proj.load_state_dict(block.combine.state_dict())
    for ours, theirs in (("expand", "linear1"), ("shrink", "linear2"), ("norm1", "norm1"), ("norm2", "norm2")):
        layer.get_submodule(theirs).load_state_dict(block.get_submodule(ours).state_dict())
    return layer


def test_the_order_of_frames_counts_by_their_positions_only():
    model, x = _model().eval(), _features(2)
    shuffled = x[..., torch.randperm(98)]
    assert not torch.allclose(model(x), model(shuffled), atol=1e-2)
    with torch.no_grad():
        model.tokens.positions.zero_()
    torch.testing.assert_close(model(x), model(shuffled), atol=1e-4, rtol=1e-4)


def test_encode_gives_the_class_token_and_then_the_frames():
    assert _model().encode(_features(2)).shape == (2, 64, 99)


def test_weight_decay_spares_the_class_token_and_positions_besides_vectors():
    model = kwt.build(12)
    named = dict(model.named_parameters())
    assert model.no_weight_decay <= set(named)
    spared = {name for name, param in named.items() if param.ndim <= 1} | model.no_weight_decay
    assert all(name.endswith(".weight") for name in set(named) - spared)
    assert not any("norm" in name for name in set(named) - spared)


def test_first_weights_are_within_two_deviations_of_zero_and_biases_are_zero():
    for name, param in kwt.build(12).named_parameters():
        if name.endswith("bias"):
            assert not param.any(), name
        elif "norm" not in name:
            assert 0.03 < param.abs().max() <= 0.04, name


def test_dropout_is_for_training_only():
    model, x = kwt.build(12, dropout=0.5), _features(2)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: kwt.build(12, size=4), "kwt needs size of 1, 2 or 3, got 4"),
        (lambda: kwt.build(12, mels=0), "kwt needs mels of 1 or more, got 0"),
        (lambda: kwt.build(12, frames=0), "kwt needs frames of 1 or more, got 0"),
        (lambda: kwt.build(12, dropout=1), "kwt needs dropout of 0 or more and below 1, got 1"),
        (
            lambda: kwt.build(12)(_features(2, frames=101)),
            "kwt was built for mels=40 and frames=98, got 40 feature bins and 101 frames",
        ),
        (
            lambda: kwt.build(12)(_features(2, mels=20)),
            "kwt was built for mels=40 and frames=98, got 20 feature bins and 98 frames",
        ),
    ],
)
def test_wrong_use_is_one_clear_sentence(call, sentence):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == sentence
