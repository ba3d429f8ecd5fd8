"""Front ends of published recipes, by name.

Whatever a recipe used, features are torchaudio's here. Its mel triangles are straight in Hz, where those of TensorFlow
and Kaldi are straight in mel; its coefficient 0 is 0.7 times TensorFlow's. `differs` says what else is not as it was.
"""

from dataclasses import dataclass
from typing import Any

from kws_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published front end."""

    settings: dict[str, Any]
    """Fields of `FeatureSettings`; the others are at their defaults."""
    source: str
    differs: str = ""
    """What the original does otherwise."""


def preset(name: str) -> dict[str, Any]:
    """Return the fields of `FeatureSettings` that a preset sets; `UsageError` where there is none of that name."""
    if name not in PRESETS:
        raise UsageError(f"--features.preset {name!r} is none of {', '.join(PRESETS)}")
    return dict(PRESETS[name].settings)


def _log_mel(mels: int) -> dict[str, Any]:
    return {"kind": "logmel", "mels": mels}


def _mfcc(coefficients: int, mels: int) -> dict[str, Any]:
    return {"kind": "mfcc", "coefficients": coefficients, "mels": mels}


def _frames(window_ms: float, hop_ms: float, fft_samples: int) -> dict[str, Any]:
    return {"window_ms": window_ms, "hop_ms": hop_ms, "fft_samples": fft_samples}


def _band(min_hz: float, max_hz: float) -> dict[str, Any]:
    return {"min_hz": min_hz, "max_hz": max_hz}


_TENSORFLOW = {"centered": False, "magnitude": True, "log_offset": 1e-12}
_KALDI = {"centered": False, "log_offset": 1e-10}
_MAXIMUM = "the logarithm is of max(x, 1e-12)"

PRESETS = {
    "bcresnet": Preset(
        settings=_log_mel(40) | _frames(30, 10, 512),
        source="Kim et al., arXiv 2106.04140, section 4.1; Qualcomm-AI-research/bcresnet, utils.py",
    ),
    "matchboxnet": Preset(
        settings=_mfcc(64, 64) | _frames(25, 10, 512),
        source="Majumdar and Ginsburg, arXiv 2004.08531; NVIDIA/NeMo, matchboxnet_3x1x64_v2.yaml",
        differs="pads or crops to 128 frames",
    ),
    "ds_tc_resnet": Preset(
        settings=_mfcc(40, 80) | _frames(30, 10, 512) | _band(20, 7600) | _TENSORFLOW,
        source="google-research, kws_streaming/experiments/kws_experiments_12_labels.md (also MHAtt-RNN with 98.4 %)",
        differs=_MAXIMUM,
    ),
    "kwt": Preset(
        settings=_mfcc(40, 80) | _frames(30, 10, 512) | _band(20, 7600) | _TENSORFLOW,
        source="Berg et al., arXiv 2104.00769; ARM-software/keyword-transformer, flags.json of its weights",
        differs=_MAXIMUM,
    ),
    "kws_streaming": Preset(
        settings=_mfcc(20, 40) | _frames(40, 20, 1024) | _band(20, 7000) | _TENSORFLOW,
        source="Rybakov et al., arXiv 2005.06720 (GRU, LSTM, CRNN and SVDF); google-research,"
        " kws_streaming/train/base_parser.py",
        differs=_MAXIMUM,
    ),
    "mhatt_rnn": Preset(
        settings=_mfcc(20, 40) | _frames(40, 20, 1024) | _band(20, 8000) | _TENSORFLOW,
        source="Rybakov et al., arXiv 2005.06720; google-research,"
        " kws_streaming/experiments/kws_experiments_paper_12_labels.md",
        differs=_MAXIMUM,
    ),
    "ml_kws": Preset(
        settings=_mfcc(10, 40) | _frames(40, 20, 1024) | _band(20, 4000) | _TENSORFLOW,
        source="Zhang et al., arXiv 1711.07128 (DS-CNN and others); ARM-software/ML-KWS-for-MCU, train_commands.txt",
        differs=_MAXIMUM,
    ),
    "mlperf_tiny": Preset(
        settings=_mfcc(10, 40) | _frames(30, 20, 512) | _band(20, 4000) | _TENSORFLOW | {"log_offset": 1e-6},
        source="mlcommons/tiny, get_dataset.py of the keyword-spotting benchmark",
        differs="each clip is scaled to a peak of 1 first",
    ),
    "tc_resnet": Preset(
        settings=_mfcc(40, 64) | _frames(30, 10, 512) | _band(80, 7600) | {"centered": False},
        source="Choi et al., arXiv 1904.03814; hyperconnect/TC-ResNet, datasets/preprocessors.py",
    ),
    "res15": Preset(
        settings=_mfcc(40, 40) | _frames(30, 10, 480) | _band(20, 4000) | {"mel_scale": "slaney", "log_offset": 1e-12},
        source="Tang and Lin, arXiv 1710.10361; castorini/honk, utils/manage_audio.py",
        differs="a band without any power stays 0, in place of its logarithm",
    ),
    "att_rnn": Preset(
        settings=_log_mel(80) | _frames(64, 8, 1024) | _band(40, 8000) | {"magnitude": True, "normalize": "clip"},
        source="de Andrade et al., arXiv 1808.08929; douglas125/SpeechCmdRecognition, audioUtils.py",
        differs="frames start at i x hop, with zeros behind the clip: 125 of them, where there are 126 here;"
        " its last version normalises the whole batch at once",
    ),
    "wekws_gru": Preset(
        settings=_log_mel(40) | _frames(25, 10, 512) | _band(20, 8000) | _KALDI | {"normalize": "dataset"},
        source="wenet-e2e/wekws, examples/hi_xiaowen/s0/conf/gru.yaml",
        differs="Kaldi's filter bank: 16-bit samples with dither, pre-emphasis of 0.97, Povey's window",
    ),
    "wekws_mdtc": Preset(
        settings=_mfcc(80, 80) | _frames(25, 10, 512) | _band(20, 8000) | _KALDI,
        source="wenet-e2e/wekws, examples/speechcommand_v1/s0/conf/mdtc.yaml",
        differs="Kaldi's MFCC: as wekws_gru, and liftered",
    ),
    "xvector": Preset(
        settings=_log_mel(24) | _frames(25, 10, 400) | {"log_offset": 1e-10},
        source="speechbrain, recipes/Google-speech-commands/hparams/xvect.yaml",
        differs="Hamming's window; no lower than 80 dB below the loudest; the mean over a clip is taken off each bin",
    ),
    "m5": Preset(
        settings={"kind": "waveform", "resample_hz": 8000},
        source="Dai et al., arXiv 1610.00087; PyTorch's tutorial speech_command_classification_with_torchaudio",
    ),
}
