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

from kws_dist.agent_words import spelled_out
from kws_dist.errors import UsageError
from kws_dist.frontend.augment_settings import AugmentSettings
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.presets import preset
from kws_dist.settings_file import read_settings
from kws_dist.train_config import TrainConfig

Number = int | float | bool | str


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which clips, and how they are drawn."""

    shards: str = ""
    """Folder of shards that tools/make_shards.py made, or its URL (https, s3, gs). Required."""
    balance: float = 1.0
    """How evenly the words are drawn: 1 equally often, 0 as they occur (then every clip exactly once an epoch)."""
    weights: dict[str, float] = field(default_factory=dict)
    """Words that are drawn more or less often than `balance` says, as pairs: --data.weights yes 2 _unknown_ 0.5."""
    max_share: dict[str, float] = field(default_factory=dict)
    """Largest share of all draws that a word may have, to within 1 %, as pairs: --data.max_share _unknown_ 0.1."""
    residency: Literal["auto", "device", "host", "stream"] = "auto"
    """Where clips live: in `device` memory, in memory-mapped files (`host`), or in shards fetched while they are used
    (`stream`). `auto`: device if they fit, else host; stream if --data.shards is a URL too large for the cache."""
    device_memory_share: float = 0.5
    """`auto` takes the device if the clips of a split take at most this share of its free memory."""
    device_share: bool = True
    """Several processes each read a part of the clips for `device`, and exchange the parts; else each reads all."""
    lanes: int = 0
    """`stream`: how many windows of the data are drawn from at a time; processes x accumulation should divide it.
    0: up to 64, as many as divide the batch."""
    window_shards: int = 1
    """`stream`: shards in each window; more mix better, and take more of the cache."""
    cache_dir: str = ""
    """`stream`: folder for fetched shards. Default: kws_dist below the user's cache folder."""
    cache_gb: float = 50.0
    """`stream`: largest size of that folder."""
    fetch_threads: int = 4
    """`stream`: shards fetched at the same time by each process."""
    fetch_attempts: int = 8
    """How often a shard is asked for before the run ends; waits double from 1 s to 60 s."""
    clip_seconds: float = 1.0
    """Length of what the model hears."""
    pad: Literal["end", "center"] = "end"
    """Where zeros go in a shorter clip."""
    long: Literal["error", "start", "center"] = "error"
    """A longer clip is refused, or this part of it is kept."""
    on_bad_clip: Literal["error", "skip"] = "error"
    """A damaged clip ends the run, or is left out and counted."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(FeatureSettings):
    """Waveform to features; defaults: BC-ResNet (arXiv 2106.04140, section 4.1)."""

    preset: str = ""
    """Front end of a published recipe, such as matchboxnet: sets all of these; what is given besides overrides it."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which architecture."""

    name: str = "bcresnet"
    """Name of a file in kws_dist/models."""
    params: dict[str, Number] = field(default_factory=dict)
    """Its parameters, as pairs: --model.params tau 3 dropout 0.1. Those of the file stay, if it is the same model."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where numbers go besides the terminal and metrics.jsonl."""

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Mirror to Weights & Biases; when it cannot be reached training goes on without it."""
    project: str = "kws_dist"
    """W&B project."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    notes: str = ""
    """W&B notes: what this run is for."""
    worst_clips: int = 32
    """How many of the clips with the highest loss to show at the end, with their sound; 0 is none."""
    checkpoints: bool = False
    """Also upload checkpoints to W&B, as an artifact with the aliases best and latest."""
    tensorboard: bool = False
    """Also write TensorBoard's files to the run folder (needs the package tensorboard)."""
    draws: bool = False
    """Also take down in the run folder which clips each step was really trained on: for proof, as a GPU has to wait."""


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
    init_from: str = ""
    """Run folder or checkpoint whose weights to begin with, where their shapes fit; rows of shared words are kept."""
    dry_run: bool = False
    """Build everything, take two steps, evaluate one batch, print what a run would take, write nothing."""
    debug: bool = False
    """Show tracebacks of errors."""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def run_dir_of(config: Config) -> Path:
    """Return the folder of a run: the one that was named, or that of its file of settings, in `runs/`."""
    return Path(config.run_dir or f"runs/{Path(config.config).stem or 'default'}")


def parse(arguments: Sequence[str]) -> Config:
    """Make the settings of a run from a command line; a mistake in it or in its file exits with code 2."""
    arguments = list(spelled_out(arguments, dict(_flat(Config()))))
    file = _value_of("--config", arguments)
    from_file = load_file(Path(file)) if file else Config()
    # tyro would make one flag of each pair in the default, and know no others: pairs are joined here.
    default = replace(
        from_file,
        model=replace(from_file.model, params={}),
        data=replace(from_file.data, weights={}, max_share={}),
    )
    config = _parsed(arguments, default, prog=Path(sys.argv[0]).name, description=Config.__doc__ or "")
    params = config.model.params
    if config.model.name == from_file.model.name:
        params = from_file.model.params | params
    return replace(
        config,
        model=replace(config.model, params=params),
        data=replace(
            config.data,
            weights=from_file.data.weights | config.data.weights,
            max_share=from_file.data.max_share | config.data.max_share,
        ),
    )


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
    if name := _value_of("--features.preset", arguments):
        default = replace(default, features=FeaturesConfig(preset=name, **preset(name)))
    return tyro.cli(
        Config,
        args=list(arguments),
        default=default,
        prog=prog,
        description=description,
        use_underscores=True,
        console_outputs=os.environ.get("RANK", "0") == "0",  # every rank makes the same mistake; one says so
    )


def _value_of(flag: str, arguments: Sequence[str]) -> str:
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
    return value


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(config).items():
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
