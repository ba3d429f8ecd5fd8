"""From settings to the two parts that every use of a model needs: its features, and the model itself."""

from dataclasses import asdict

from torch import nn

from kws_dist import models
from kws_dist.config import Config, FeaturesConfig, Number
from kws_dist.errors import UsageError
from kws_dist.frontend.features import Features, build_features
from kws_dist.frontend.normalize import Statistics


def features_of(settings: FeaturesConfig, sample_rate_hz: int, statistics: Statistics | None = None) -> Features:
    """Build the features. `statistics`: of the training clips, for `--features.normalize dataset`."""
    given = {name: value for name, value in asdict(settings).items() if name != "preset"}
    return build_features(**given, sample_rate_hz=sample_rate_hz, statistics=statistics)


def model_params(config: Config, sample_rate_hz: int) -> dict[str, Number]:
    """Return the model's parameters: the settings', and the bins and frames of its features, if it has to know.

    `UsageError` for a parameter that is said elsewhere.
    """
    known = models.list_params(config.model.name)
    for taken, meant in {"name": "--model.name", "num_classes": "the number of words in --data.shards"}.items():
        if taken in config.model.params:
            raise UsageError(f"--model.params {taken} {config.model.params[taken]}: it is {meant}, and no parameter")
    clip_samples = round(config.data.clip_seconds * sample_rate_hz)
    shape = {"mels": config.features.bins, "frames": config.features.frames(clip_samples, sample_rate_hz)}
    return {**{name: value for name, value in shape.items() if name in known}, **config.model.params}


def model_of(config: Config, num_classes: int, sample_rate_hz: int) -> nn.Module:
    """Build the model, freshly initialised. `UsageError` where it cannot take features of this kind."""
    name, kind = config.model.name, config.features.kind
    if models.takes_waveforms(name) != (kind == "waveform"):
        takes = "waveform" if models.takes_waveforms(name) else "logmel, mfcc or spectrogram"
        raise UsageError(f"--model.name {name} takes --features.kind {takes}, not {kind}")
    return models.build(config.model.name, num_classes=num_classes, **model_params(config, sample_rate_hz))
