"""Every architecture has as many parameters as its publication says; where the count differs, the row says why.

A published figure is either exact, or rounded as it is printed there: `238e3` within `ROUNDED` is "238 k". Where only
code is published (DS-CNN, CRNN S, M, L), the exact figure is what that code has, added up by hand.
To add a model, add its rows: name, parameters, number of words, the published count, what ours has besides.
"""

import pytest
from torch import nn

from kws_dist.models import build, list_models

EXACT, ROUNDED, ROUNDED_TENTH = 0, 500, 50  # how far a published figure may be off: itself, in k, in 0.1 k


def _running_statistics(model: nn.Module) -> int:
    return sum(buffer.numel() for name, buffer in model.named_buffers() if "running" in name)


def _norm_channels(model: nn.Module) -> int:
    return sum(norm.bias.numel() for norm in model.modules() if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)))


def _nothing(_: nn.Module) -> int:
    return 0


def _folded(model: nn.Module) -> int:
    """An 8-bit DS-CNN has its norms folded into the convolutions: a bias per channel, in place of scale and shift."""
    return _norm_channels(model)


def _classifier_bias_not_statistics(model: nn.Module) -> int:
    """TC-ResNet counts all variables of its batch norms, as TensorFlow does; its classifier has no bias."""
    return model.get_parameter("classifier.bias").numel() - _running_statistics(model)


def _not_statistics(model: nn.Module) -> int:
    """Keras counts the running means and variances of batch norms, too."""
    return -_running_statistics(model)


def _second_biases(model: nn.Module) -> int:
    """torch's recurrent layers have two biases, one of which is redundant; TensorFlow's have one."""
    return sum(bias.numel() for name, bias in model.named_parameters() if "bias_hh" in name)


def _second_biases_not_statistics(model: nn.Module) -> int:
    return _second_biases(model) - _running_statistics(model)


# (name, parameters, words), published, within, what ours has besides.
PUBLISHED = [
    # Kim et al., arXiv 2106.04140, Table 3 gives k; exact: Qualcomm-AI-research/bcresnet, bcresnet.py.
    *[
        (("bcresnet", {"tau": tau}, words), count, EXACT, _nothing)
        for words, counts in {
            12: (9_232, 17_154, 27_284, 54_168, 187_812, 321_068),
            30: (9_826, 18_036, 28_454, 55_914, 191_286, 325_694),
            35: (9_991, 18_281, 28_779, 56_399, 192_251, 326_979),
        }.items()
        for tau, count in zip((1, 1.5, 2, 3, 6, 8), counts, strict=True)
    ],
    (("bcresnet", {"tau": 1}, 10), 9_166, EXACT, _nothing),
    # Zhang et al., arXiv 1711.07128: 38.6, 189.2 and 497.6 KB for weights and maps of 8 bits (test_ds_cnn.py takes
    # the maps off). MLPerf Tiny's is size S.
    (("ds_cnn", {"size": "S"}, 12), 22_604, EXACT, _folded),
    (("ds_cnn", {"size": "M"}, 12), 135_032, EXACT, _folded),
    (("ds_cnn", {"size": "L"}, 12), 410_700, EXACT, _folded),
    # Choi et al., arXiv 1904.03814, Table 1.
    (("tc_resnet", {"depth": 8}, 12), 66e3, ROUNDED, _classifier_bias_not_statistics),
    (("tc_resnet", {"depth": 8, "width": 1.5}, 12), 145e3, ROUNDED, _classifier_bias_not_statistics),
    (("tc_resnet", {"depth": 14}, 12), 137e3, ROUNDED, _classifier_bias_not_statistics),
    (("tc_resnet", {"depth": 14, "width": 1.5}, 12), 305e3, ROUNDED, _classifier_bias_not_statistics),
    # Tang and Lin, arXiv 1710.10361, Tables 1 to 4.
    (("res15", {"depth": 15}, 12), 238e3, ROUNDED, _nothing),
    (("res15", {"depth": 8}, 12), 110e3, ROUNDED, _nothing),
    (("res15", {"depth": 26}, 12), 438e3, ROUNDED, _nothing),
    (("res15", {"depth": 15, "narrow": True}, 12), 42.6e3, ROUNDED_TENTH, _nothing),
    (("res15", {"depth": 8, "narrow": True}, 12), 19.9e3, ROUNDED_TENTH, _nothing),
    (("res15", {"depth": 26, "narrow": True}, 12), 78.4e3, ROUNDED_TENTH, _nothing),
    # Majumdar and Ginsburg, arXiv 2004.08531, Table 2 (30 words, and 35).
    # One figure is given for both: with 30 words it is met by the two smaller ones, with 35 only roughly by the others.
    (("matchboxnet", {"blocks": 3, "repeats": 1, "channels": 64}, 30), 77e3, ROUNDED, _nothing),
    (("matchboxnet", {"blocks": 3, "repeats": 1, "channels": 64}, 35), 77e3, 900, _nothing),  # 77,859
    (("matchboxnet", {"blocks": 3, "repeats": 2, "channels": 64}, 30), 93e3, ROUNDED, _nothing),
    (("matchboxnet", {"blocks": 3, "repeats": 2, "channels": 64}, 35), 93e3, ROUNDED, _nothing),
    (("matchboxnet", {"blocks": 6, "repeats": 2, "channels": 64}, 30), 140e3, 1_200, _nothing),  # 138,846
    (("matchboxnet", {"blocks": 6, "repeats": 2, "channels": 64}, 35), 140e3, 600, _nothing),  # 139,491
    # douglas125/SpeechCmdRecognition's notebook prints its model, for 36 words.
    (("att_rnn", {}, 36), 201_247, EXACT, _second_biases_not_statistics),
    # arXiv 2005.06720 has 743 k; exact: model_summary.txt of the teacher of KWT, in kws_streaming.
    (("mhatt_rnn", {}, 12), 743e3, ROUNDED, _not_statistics),
    (("mhatt_rnn", {"mels": 40, "second_dense": 0}, 12), 756_711, EXACT, _not_statistics),
    # "stream": kws_streaming, experiments/kws_experiments_quantized_12_labels.md; S, M, L: ML-KWS-for-MCU's sizes.
    (("crnn", {"size": "stream", "mels": 20}, 12), 467e3, 800, _nothing),  # 467,772, cut there
    (("crnn", {"size": "S", "mels": 10}, 12), 75_432, EXACT, _second_biases),
    (("crnn", {"size": "M", "mels": 10}, 12), 189_032, EXACT, _second_biases),
    (("crnn", {"size": "L", "mels": 10}, 12), 485_004, EXACT, _second_biases),
    # ARM-software/keyword-transformer, README: 607 k, 2,394 k and 5,361 k.
    (("kwt", {"size": 1}, 12), 607_308, EXACT, _nothing),
    (("kwt", {"size": 2}, 12), 2_394_252, EXACT, _nothing),
    (("kwt", {"size": 3}, 12), 5_360_844, EXACT, _nothing),
    # PyTorch's tutorial "Speech Command Classification with torchaudio" prints it.
    (("m5", {}, 35), 26_915, EXACT, _nothing),
]


def _label(value: object) -> str | None:
    if not isinstance(value, tuple):
        return None
    name, params, words = value
    return "-".join([name, *map(str, params.values()), f"{words}words"])


@pytest.mark.parametrize(("model", "published", "within", "besides"), PUBLISHED, ids=_label)
def test_parameters_are_as_published(model, published, within, besides):
    name, params, words = model
    net = build(name, num_classes=words, **params)
    ours = sum(param.numel() for param in net.parameters())
    assert abs(ours - besides(net) - published) <= within, f"{ours:,} parameters"


def test_no_published_architecture_is_forgotten():
    """The others have no published count: those this project grew from, and the GRU of its quick start."""
    counted = {name for (name, _, _), *_ in PUBLISHED}
    assert set(list_models()) - counted == {"cnn4", "cnn_lstm", "gru", "rnn"}
