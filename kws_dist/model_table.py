"""What every model costs and how far it hears, as one table; what `tools/runs.py models` prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from kws_dist import model_figures, models
from kws_dist.config import Config, FeaturesConfig, ModelConfig, load_file
from kws_dist.errors import UsageError
from kws_dist.frontend.features import Features
from kws_dist.frontend.normalize import Statistics
from kws_dist.frontend.presets import PRESETS, preset

_RATE_HZ = 16_000
_TRAINED_CLIPS = 8

_NO_MODELS = {"add_word"}  # recipes for the training of a model that is there


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """The figures of one model for one clip."""

    name: str
    """Of the recipe in configs/, or of the model, where none has it."""
    model: str
    parameters: int
    macs: int
    """Of the model alone; see `model_figures.count_macs`."""
    receptive_field_ms: float | None
    """How much sound one step before the pooling over time depends on; None: the whole clip."""
    activation_mb: float
    """What training keeps for the backward pass, in 1e6 bytes."""
    latency_ms: float
    latency_with_features_ms: float


def recipes(folder: Path, names: Sequence[str] = ()) -> dict[str, Config]:
    """Return the settings to show by name: of each recipe in `folder`, and of each model that none of them has.

    `names` chooses among them, by the name of a recipe or of a model; a path of a recipe elsewhere is taken as well.
    A model of its own is at its defaults, with the front end of the preset that has its name.
    """
    found = {path.stem: load_file(path) for path in sorted(folder.glob("*.yaml")) if path.stem not in _NO_MODELS}
    used = {config.model.name for config in found.values()}
    found |= {name: _at_defaults(name) for name in models.list_models() if name not in used}
    if not names:
        return found
    chosen: dict[str, Config] = {}
    for name in names:
        if name.endswith((".yaml", ".yml")):
            chosen[Path(name).stem] = load_file(Path(name))
            continue
        matching = {key: config for key, config in found.items() if name in (key, config.model.name)}
        if not matching:
            close = get_close_matches(name, [*found, *models.list_models()], n=1)
            meant = f"; perhaps you meant {close[0]!r}" if close else ""
            raise UsageError(f"no recipe and no model is called {name!r}{meant}; choose from {', '.join(found)}")
        chosen |= matching
    return chosen


def _at_defaults(name: str) -> Config:
    features = FeaturesConfig(preset=name, **preset(name)) if name in PRESETS else FeaturesConfig()
    return Config(model=ModelConfig(name=name), features=features)


def measure(name: str, config: Config, *, num_classes: int, device: torch.device) -> ModelRow:
    """Build the features and the model of a recipe and measure them; `UsageError` if they cannot be built."""
    clip_samples = round(config.data.clip_seconds * _RATE_HZ)
    front_end, wave = _features(config).to(device), 0.1 * torch.randn(_TRAINED_CLIPS, clip_samples, device=device)
    features = front_end(wave)
    bins, frames = features.shape[2:]
    build = partial(_build, config, num_classes, bins)
    model, one, one_wave = build(frames).to(device), features[:1].clone(), wave[:1].clone()
    macs = model_figures.count_macs(model, one)
    model.eval()
    calls = (lambda: model(one), lambda: model(front_end(one_wave)))
    alone_ms, whole_ms = model_figures.latencies_ms(calls, device)
    return ModelRow(
        name=name,
        model=config.model.name,
        parameters=model_figures.count_parameters(model),
        macs=macs,
        latency_ms=alone_ms,
        latency_with_features_ms=whole_ms,
        activation_mb=model_figures.activation_bytes(model, features) / 1e6,
        receptive_field_ms=_milliseconds(config, model_figures.receptive_frames(build, bins=bins, frames=frames)),
    )


def _build(config: Config, num_classes: int, bins: int, frames: int) -> nn.Module:
    """Build the model, as wide and as long as the features if it has to know that, on the CPU."""
    given = {"mels": bins, "frames": frames}
    known = models.list_params(config.model.name)
    params = {key: value for key, value in given.items() if key in known} | config.model.params
    return models.build(config.model.name, num_classes=num_classes, **params)


def _features(config: Config) -> Features:
    """Build the features; what they would be normalised by over a dataset does not matter here."""
    statistics = Statistics((0.0,) * config.features.bins, (1.0,) * config.features.bins)
    return Features(config.features, sample_rate_hz=_RATE_HZ, statistics=statistics)


def _milliseconds(config: Config, frames: int | None) -> float | None:
    """Return the length of so many frames, each as long as the window; a filter that resamples is left out."""
    if frames is None:
        return None
    settings, rate_hz = config.features, config.features.rate_hz(_RATE_HZ)
    if settings.kind == "waveform":
        return 1000 * frames / rate_hz
    return 1000 * ((frames - 1) * settings.hop_samples(_RATE_HZ) + settings.window_samples(_RATE_HZ)) / rate_hz


def measure_all(
    found: dict[str, Config], *, num_classes: int, device: torch.device, say: Callable[[str], None]
) -> tuple[list[ModelRow], dict[str, str]]:
    """Measure all recipes; returns the rows, and what was wrong with those that could not be built. `say`: whose turn.

    The weights are the same each time; the state of torch's generator is left alone.
    """
    rows: list[ModelRow] = []
    wrong: dict[str, str] = {}
    for number, (name, config) in enumerate(found.items(), start=1):
        say(f"measuring {name}, {number} of {len(found)}")
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                rows.append(measure(name, config, num_classes=num_classes, device=device))
        except UsageError as error:
            wrong[name] = str(error)
    return rows, wrong


def show(rows: Sequence[ModelRow], console: Console, *, num_classes: int, device: torch.device) -> None:
    """Print the table and what it is about."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", overflow="fold", min_width=12)
    for heading in ("parameters", "million\nMACs", "hears\nms", "keeps\nMB", "model\nms", "ms with\nfeatures"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.parameters:,}",
            _three_digits(row.macs / 1e6),
            "clip" if row.receptive_field_ms is None else f"{row.receptive_field_ms:,.0f}",
            f"{row.activation_mb:,.2f}",
            _three_digits(row.latency_ms),
            _three_digits(row.latency_with_features_ms),
        )
    console.print(table)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    console.print(
        f"For one clip and {num_classes} words. hears: what one step before the pooling over time depends on (clip: all"
        " of it); keeps: from the forward to the backward pass of training; the last two columns: median latency here"
        f" ({where}, float32).",
        style="dim",
    )


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
