"""Every setting of a training run, as frozen dataclasses; a file and the command line fill them in.

A YAML file holds only what differs from the defaults below; the command line overrides the file. Both go through
the same typed parser, so a typing mistake in either is answered with what was probably meant.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from kws_dist.errors import UsageError
from kws_dist.settings_file import read_settings

Number = int | float | bool | str


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which clips, and how they are drawn."""

    shards: str = ""
    """Folder of shards that tools/make_shards.py made. Required."""
    balance: float = 1.0
    """How evenly the words are drawn: 1 equally often, 0 as they occur (then every clip exactly once an epoch)."""
    residency: Literal["auto", "device", "host"] = "auto"
    """Where clips live while training: all in device memory, or in memory-mapped files. `auto`: device if it fits."""
    clip_seconds: float = 1.0
    """Length of what the model hears."""
    pad: Literal["end", "center"] = "end"
    """Where zeros go in a shorter clip."""
    long: Literal["error", "start", "center"] = "error"
    """A longer clip is refused, or this part of it is kept."""
    on_bad_clip: Literal["error", "skip"] = "error"
    """A damaged clip ends the run, or is left out and counted."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Waveform to features. Defaults: BC-ResNet (arXiv 2106.04140, section 4.1)."""

    kind: Literal["logmel"] = "logmel"
    """Log-mel spectrogram."""
    mels: int = 40
    """Mel bands."""
    window_ms: float = 30.0
    """Length of the Hann window."""
    hop_ms: float = 10.0
    """Time from one frame to the next."""
    fft_samples: int = 512
    """Length of the Fourier transform."""
    min_hz: float = 0.0
    """Lower edge of the lowest mel band."""
    max_hz: float = 8_000.0
    """Upper edge of the highest mel band."""
    log_offset: float = 1e-6
    """Added to the power before the logarithm."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to training clips. Every random number is a function of the seed and the draw number."""

    shift_ms: float = 100.0
    """Largest time shift to either side."""
    shift_probability: float = 0.8
    """Share of clips that are shifted."""
    noise_amplitude: float = 0.1
    """Background noise is scaled by U(0, this)."""
    noise_probability: float = 0.8
    """Share of clips that get background noise."""
    time_masks: int = 2
    """Masked bands of frames per clip."""
    time_mask_frames: int = 20
    """Widest band of masked frames."""
    frequency_masks: int = 2
    """Masked bands of mels per clip."""
    frequency_mask_bins: int = 0
    """Widest band of masked mels; 0 is off."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which architecture."""

    name: str = "bcresnet"
    """Name of a file in kws_dist/models."""
    params: dict[str, Number] = field(default_factory=dict)
    """Its parameters, as pairs: --model.params tau 3 dropout 0.1. Those of the file stay, if it is the same model."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the model is trained."""

    epochs: int = 30
    """Length of the run; an epoch is as many draws as there are training clips."""
    global_batch: int = 100
    """Clips per optimizer step, over all processes and accumulation steps."""
    accumulate: int = 1
    """Micro-batches per optimizer step on each process."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the model. `auto`: bf16 on GPUs that have it, else fp32."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd is with momentum."""
    learning_rate: float = 0.1
    """Peak rate."""
    momentum: float = 0.9
    """Of sgd; the first beta of adam and adamw."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd."""
    weight_decay: float = 1e-3
    """Applied to all weights."""
    warmup_epochs: float = 5.0
    """The rate rises linearly from 0 for so long, then falls to 0 along half a cosine."""
    label_smoothing: float = 0.0
    """Share of the target spread over all words."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 is no clipping."""
    ema_decay: float = 0.0
    """Evaluate an exponential moving average of the weights with this decay per step; 0 is off."""
    eval_every_epochs: int = 1
    """Validate and save a checkpoint each so many epochs (always at the end)."""
    save_every_steps: int = 0
    """Save a checkpoint each so many steps as well; 0 is off."""
    log_every_steps: int = 10
    """Read figures back from the device and log them each so many steps."""
    max_bad_steps: int = 20
    """End the run after so many steps in a row whose loss or gradient was not finite."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where numbers go besides the terminal and metrics.jsonl."""

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Mirror to Weights & Biases; when it cannot be reached training goes on without it."""
    project: str = "kws_dist"
    """W&B project."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a keyword-spotting model."""

    config: str = ""
    """YAML file of settings that differ from the defaults; the command line overrides it."""
    run_dir: str = ""
    """Folder of the run. Default: runs/ and the name of the config file."""
    seed: int = 0
    """Makes the weights, the draws and the augmentation."""
    resume: str = "auto"
    """auto: go on with an unfinished run in run_dir. never: refuse a used run_dir. PATH: start from that checkpoint."""
    dry_run: bool = False
    """Build everything, take two steps, evaluate one batch, print what a run would take, write nothing."""
    debug: bool = False
    """Show tracebacks of errors."""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def parse(arguments: Sequence[str]) -> Config:
    """Make the settings of a run from a command line; a mistake in it or in its file exits with code 2."""
    file = _config_file(arguments)
    from_file = load_file(Path(file)) if file else Config()
    # tyro would make one flag of each parameter in the default, and know no others.
    default = replace(from_file, model=replace(from_file.model, params={}))
    config = _parsed(arguments, default, prog=Path(sys.argv[0]).name, description=Config.__doc__ or "")
    if config.model.name != from_file.model.name:
        return config
    params = {**from_file.model.params, **config.model.params}
    return replace(config, model=replace(config.model, params=params))


def load_file(path: Path) -> Config:
    """Read a YAML file of settings; `UsageError` where it is not one, exit code 2 where a name or value is wrong."""
    try:
        return load_text(path.read_text(encoding="utf-8"), name=str(path))
    except FileNotFoundError:
        raise UsageError(f"--config {path}: there is no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"--config {path} cannot be read: {error}") from None


def load_text(text: str, *, name: str) -> Config:
    """Read YAML settings from a string; `name` says in errors where it is from."""
    words = read_settings(text, name=name, defaults=dict(_flat(Config())))
    return _parsed(words, Config(), prog=name, description=f"Settings in {name}.")


def to_yaml(config: Config) -> str:
    """Write all settings so that `--config` on the result gives the same run."""
    settings = asdict(config)
    for name in ("config", "dry_run", "debug"):  # about one call, not about the run
        del settings[name]
    return yaml.safe_dump(settings, sort_keys=False)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ, as `{"train.epochs": (of a, of b)}`."""
    of_a, of_b = dict(_flat(a)), dict(_flat(b))
    return {name: (of_a[name], of_b[name]) for name in of_a if of_a[name] != of_b[name]}


def _parsed(arguments: Sequence[str], default: Config, *, prog: str, description: str) -> Config:
    return tyro.cli(
        Config,
        args=list(arguments),
        default=default,
        prog=prog,
        description=description,
        use_underscores=True,
        console_outputs=os.environ.get("RANK", "0") == "0",  # every rank makes the same mistake; one says so
    )


def _config_file(arguments: Sequence[str]) -> str:
    file = ""
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument == "--config":
            file = value
        elif argument.startswith("--config="):
            file = argument.removeprefix("--config=")
    return file


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(config).items():
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
