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
from kws_dist.frontend.augment_settings import AugmentSettings
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.presets import preset
from kws_dist.settings_file import read_settings

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
    optimizer: Literal["sgd", "adam", "adamw", "muon", "novograd"] = "sgd"
    """sgd is with momentum. muon takes the matrices inside the model, and adamw the rest, at a tenth of the rate."""
    learning_rate: float = 0.1
    """Peak rate."""
    momentum: float = 0.9
    """Of sgd and muon; the first beta of the others."""
    beta2: float = 0.999
    """The second beta of adam, adamw and novograd."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd and muon."""
    weight_decay: float = 1e-3
    """Applied to all weights; apart from the gradient's own size (decoupled) in adamw, muon and novograd."""
    decay_norms: bool = True
    """Also decay biases, the weights of norms, and what a model exempts (positions); else only matrices and kernels."""
    layer_decay: float = 1.0
    """The rate of each layer is this times that of the next one towards the output; 1 is the same for all."""
    schedule: Literal["cosine", "linear", "step", "hold", "one_cycle", "constant"] = "cosine"
    """After the warm-up: half a cosine or a line down to the end; drops at `step_epochs`; held for `hold_epochs`, then
    a polynomial down; or one_cycle: from peak / 25 up to the peak while it warms up, then down to peak / 250,000."""
    warmup_epochs: float = 5.0
    """The rate rises to its peak for so long: along a line from 0, or half a cosine for one_cycle."""
    final_share: float = 0.0
    """cosine, linear and hold end at this share of the peak."""
    step_epochs: tuple[float, ...] = (10.0, 20.0)
    """`step`: where the rate drops."""
    step_factor: float = 0.1
    """`step`: what it is multiplied by there."""
    hold_epochs: float = 10.0
    """`hold`: how long the peak is held."""
    decay_power: float = 2.0
    """`hold`: power of the polynomial by which it then falls."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """focal counts clips the less, the surer the model is of their word already."""
    focal_gamma: float = 2.0
    """How much less: a loss is multiplied by (1 - probability) to this power."""
    label_smoothing: float = 0.0
    """Share of the target spread over all words."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: losses are weighted so that each word counts the same, however often it is drawn (--data.balance 0)."""
    teacher: str = ""
    """Run folder whose model is to be imitated (knowledge distillation); it hears the same augmented clips."""
    teacher_weight: float = 0.5
    """Share of the loss that is about the teacher's answer; the rest is about the label."""
    teacher_labels: Literal["soft", "hard"] = "soft"
    """The teacher's answer: its probabilities, or its most likely word."""
    teacher_temperature: float = 2.0
    """`soft`: the logits of both are divided by this first."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are, such as 'blocks.*' or '*norm*'."""
    train_last_layers: int = 0
    """Freeze all layers but the last so many, of which the classifier is one; 0 is off."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 is no clipping."""
    compile: bool = False
    """Compile the model with torch.compile: a slow start, then often faster, on GPUs above all."""
    ema_decay: float = 0.0
    """Evaluate an exponential moving average of the weights with this decay per step; 0 is off."""
    eval_every_epochs: int = 1
    """Validate and save a checkpoint each so many epochs (always at the end)."""
    test_each_epoch: bool = False
    """Also report the accuracy on the test split whenever the model is validated. Nothing is chosen by it."""
    patience_epochs: int = 0
    """End the training when validation has not improved for so many epochs; 0 is off."""
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


def parse(arguments: Sequence[str]) -> Config:
    """Make the settings of a run from a command line; a mistake in it or in its file exits with code 2."""
    arguments = list(_spelled_out(arguments))
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


def _spelled_out(arguments: Sequence[str]) -> Iterator[str]:
    """Say `--train.nesterov=false`, as W&B's sweeps do, as `--train.no_nesterov`; `--model.params=tau 3` in words."""
    settings = dict(_flat(Config()))
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        default = settings.get(name) if argument.startswith("--") and equals else None
        if isinstance(default, bool) and value.lower() in ("true", "false"):
            section, dot, last = name.rpartition(".")
            yield f"--{name}" if value.lower() == "true" else f"--{section}{dot}no_{last}"
        elif isinstance(default, (dict, tuple)):
            yield from (f"--{name}", *value.split())
        else:
            yield argument


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
