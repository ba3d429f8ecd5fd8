"""The words around a training: what is about to run, how it went, what to do next."""

import shlex
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kws_dist.config import Config, TrainConfig, differences, load_text
from kws_dist.display import Display, duration
from kws_dist.evaluation import plots
from kws_dist.evaluation.evaluate import Evaluation
from kws_dist.metrics_file import read_metrics
from kws_dist.run import RunFolder
from kws_dist.tracking import Tracker
from kws_dist.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from kws_dist.training.loop import Progress
    from kws_dist.training.session import Job

Results = dict[str, Evaluation]


def startup_rows(job: "Job", start_step: int) -> dict[str, str]:
    """Return the table of what is about to run."""
    config, dataset, batch = job.config, job.data.dataset, job.batch_slice
    clips = ", ".join(f"{split} {len(store.rows):,}" for split, store in job.data.stores.items())
    begin = f"step {start_step} of {job.total_steps}" if start_step else "a new run"
    return {
        "run folder": str(job.run.path),
        "starts at": begin,
        "model": f"{_model_name(job)}, {_parameters(job)}",
        "data": f"{config.data.shards}, digest {dataset.digest[:12]}",
        "clips": clips,
        "clips live in": _homes(job),
        "features": f"{config.features.kind}, {config.features.bins} bins",
        "global batch": f"{batch.global_batch} = {batch.rows} per rank x {batch.world} ranks"
        f" x {batch.accumulate} accumulated",
        **({"teacher": config.train.teacher} if config.train.teacher else {}),
        "length": f"{config.train.epochs} epochs x {job.sampler.steps_per_epoch} steps",
        "precision": {"no": "fp32"}.get(job.accelerator.mixed_precision, job.accelerator.mixed_precision),
        "device": device_name(job.accelerator.device),
        "seed": str(config.seed),
    }


def _homes(job: "Job") -> str:
    """Say where the clips of each split are."""
    homes = {"DeviceStore": f"{job.accelerator.device.type} memory", "HostStore": "memory-mapped shards"}
    homes["StreamStore"] = "a cache of shards that are fetched while they are used"
    splits: dict[str, list[str]] = {}
    for split, store in job.data.stores.items():
        splits.setdefault(homes[type(store).__name__], []).append(split)
    return "; ".join(home if len(splits) == 1 else f"{', '.join(some)}: {home}" for home, some in splits.items())


def warnings(job: "Job") -> list[str]:
    """Return what a person should know before the figures."""
    said = [f"clip {key} is damaged and left out" for key in job.data.skipped_keys]
    said += _rate_that_never_falls(job.config.train)
    said += _settings_without_effect(job.config.train)
    clip_samples = round(job.config.data.clip_seconds * job.data.dataset.sample_rate_hz)
    too_short = all(len(recording) < clip_samples for recording in job.data.noise)
    augment = job.config.augment
    if too_short and (augment.snr_noise_probability or (augment.noise_probability and augment.noise_amplitude)):
        said.append("no background noise is mixed in: the shards hold no noise recording as long as a clip")
    return said


def _rate_that_never_falls(train: TrainConfig) -> list[str]:
    """Return a warning where a run is too short for its schedule, as when only its epochs were changed."""
    held = train.schedule == "hold" and train.warmup_epochs + train.hold_epochs >= train.epochs
    late = [epoch for epoch in train.step_epochs if train.schedule == "step" and epoch >= train.epochs]
    if held:
        return [
            f"the rate never falls: --train.hold_epochs {train.hold_epochs:g} reach to the end of {train.epochs} epochs"
        ]
    return [f"the rate does not drop at epoch {epoch:g}: the run has {train.epochs}" for epoch in late]


def _settings_without_effect(train: TrainConfig) -> list[str]:
    """Return a warning for each setting that another one keeps from mattering."""
    needs = {"focal_gamma": ("loss", "focal"), "step_epochs": ("schedule", "step"), "step_factor": ("schedule", "step")}
    needs |= {"hold_epochs": ("schedule", "hold"), "decay_power": ("schedule", "hold")}
    said = []
    for name, (other, value) in needs.items():
        if getattr(train, name) != getattr(TrainConfig(), name) and getattr(train, other) != value:
            said.append(f"--train.{name} has no effect: --train.{other} is {getattr(train, other)}, not {value}")
    if not train.teacher and train.teacher_weight != TrainConfig().teacher_weight:
        said.append("--train.teacher_weight has no effect: there is no --train.teacher")
    if train.warmup_epochs >= train.epochs:
        said.append(f"the rate never gets beyond its warm-up: --train.warmup_epochs is {train.warmup_epochs:g}")
    return said


def transfer_warnings(config: Config, source: Checkpoint) -> list[str]:
    """Return in which features the run that is begun with differs: its weights expect its own."""
    theirs = load_text(source.state["config"], name=str(source.path))
    changed = [
        f"--{name} {now} (there {was})"
        for name, (was, now) in differences(theirs, config).items()
        if name.startswith("features.") and name != "features.preset"
    ]
    return [f"its weights were trained on other features: {', '.join(changed)}"] if changed else []


def summary(results: Results, job: "Job", progress: "Progress") -> dict[str, Any]:
    """Return the content of `result.json`."""
    words = job.data.dataset.words
    return {
        **{split: evaluation.as_dict(words) for split, evaluation in results.items()},
        "best_step": progress.best_step,
        "steps": progress.step,
        "train_clips": progress.clips,
        "train_s": progress.train_s,
        "train_clips_per_s": progress.clips / progress.train_s if progress.train_s else None,
        "parameters": sum(parameter.numel() for parameter in job.learner.model.parameters()),
        "skipped_clips": len(job.data.skipped_keys),
    }


def draw_plots(run: RunFolder, results: Results, words: tuple[str, ...], tracker: Tracker) -> None:
    """Write results.png and confusion.png (of the test split, or else of the validation split)."""
    curves, matrix = run.path / "results.png", run.path / "confusion.png"
    plots.learning_curves(read_metrics(run.metrics_file), curves)
    tracker.log_image("results", curves)
    for evaluation in list(results.values())[-1:]:
        plots.confusion(evaluation.confusion, words, matrix)
        tracker.log_image("confusion", matrix)


def show_end(display: Display, run: RunFolder, result: dict[str, Any]) -> None:
    """Show the results and the commands that are likely to come next."""
    rows = {split: _accuracy_line(result[split]) for split in ("val", "test") if split in result}
    rows["best step"] = f"{result['best_step']} of {result['steps']}"
    if result["train_clips_per_s"]:
        rows["training"] = f"{duration(result['train_s'])}, {result['train_clips_per_s']:.0f} clips/s"
    speed = result["inference"]
    rows["inference"] = (
        f"{speed['latency_ms']:.2f} ms a clip, {speed['clips_per_s']:,.0f} clips/s in batches of {speed['batch']}"
    )
    rows["run folder"] = str(run.path)
    folder = shlex.quote(str(run.path))
    commands = [
        f"python launch/evaluate.py --run_dir {folder}",
        f"python tools/predict.py --run_dir {folder} FILE",
        f"accelerate launch launch/train.py --config {folder}/config.yaml --run_dir {folder}-again --seed 1",
    ]
    display.finish(rows, commands)


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _parameters(job: "Job") -> str:
    trained = parameter_count(job.learner.model)
    frozen = sum(parameter.numel() for parameter in job.learner.model.parameters()) - trained
    return f"{trained:,} parameters" + (f", and {frozen:,} frozen" if frozen else "")


def _model_name(job: "Job") -> str:
    params = job.config.model.params
    return job.config.model.name + (
        f" ({', '.join(f'{name} {value}' for name, value in params.items())})" if params else ""
    )


def _accuracy_line(figures: dict[str, Any]) -> str:
    low, high = figures["accuracy_low"], figures["accuracy_high"]
    return (
        f"accuracy {figures['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f},"
        f" {figures['correct']:,} of {figures['n']:,} clips"
    )


def changed_settings(config: Config) -> dict[str, str]:
    """Return the settings that differ from the defaults, by flag."""
    skipped = {"config", "run_dir", "data.shards"}  # the table above names them already
    return {
        f"--{name}": f"{now} (default {default})"
        for name, (default, now) in differences(Config(), config).items()
        if name not in skipped
    }
