"""The words around a training: what is about to run, how it went, what to do next."""

from typing import Any

import torch
from torch import nn

from kws_dist.config import Config, TrainConfig, differences, load_text
from kws_dist.display import Display, duration
from kws_dist.evaluation import plots
from kws_dist.evaluation.evaluate import Evaluation
from kws_dist.latency import Speed
from kws_dist.metrics_file import read_metrics
from kws_dist.run import RunFolder
from kws_dist.tracking import Tracker
from kws_dist.training import launcher, next_steps
from kws_dist.training.checkpoint import Checkpoint
from kws_dist.training.job import Job
from kws_dist.training.progress import Progress
from kws_dist.training.ranks import precision_of

Results = dict[str, Evaluation]


def startup_rows(job: Job, start_step: int) -> dict[str, str]:
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
        "length": _length(job),
        "precision": _precision(job),
        "device": device_name(job.accelerator.device),
        "seed": str(config.seed),
    }


def _length(job: Job) -> str:
    steps_per_epoch, train = job.sampler.steps_per_epoch, job.config.train
    if train.steps:
        length = f"{train.steps:,} steps, {train.steps / steps_per_epoch:.3g} epochs"
    else:
        length = f"{train.epochs} epochs x {steps_per_epoch:,} steps"
    return length + (f", at most {duration(60 * train.max_minutes)}" if train.max_minutes else "")


def _precision(job: Job) -> str:
    """Return the arithmetic, with what else changes how it is done."""
    train = job.config.train
    on_gpu = job.accelerator.device.type == "cuda"
    extras = {
        "without TF32": on_gpu and not train.tf32,
        "compiled": train.compile,
        "as a CUDA graph": train.cuda_graph,
        "gradients sent as bf16": train.compress_gradients,
    }
    return ", ".join([precision_of(job.accelerator), *(extra for extra, is_on in extras.items() if is_on)])


def _homes(job: Job) -> str:
    """Say where the clips of each split are."""
    homes = {"DeviceStore": f"{job.accelerator.device.type} memory", "HostStore": "memory-mapped shards"}
    homes["StreamStore"] = "a cache of shards that are fetched while they are used"
    splits: dict[str, list[str]] = {}
    for split, store in job.data.stores.items():
        splits.setdefault(homes[type(store).__name__], []).append(split)
    return "; ".join(home if len(splits) == 1 else f"{', '.join(some)}: {home}" for home, some in splits.items())


def warnings(job: Job) -> list[str]:
    """Return what a person should know before the figures."""
    said = [f"clip {key} is damaged and left out" for key in job.data.skipped_keys]
    epochs = job.total_steps / job.sampler.steps_per_epoch
    if job.teacher and job.teacher.note:
        said.append(job.teacher.note)
    said += _weights_without_effect(job.config)
    said += _rate_that_never_falls(job.config.train, epochs)
    said += _settings_without_effect(job.config.train, epochs)
    clip_samples = round(job.config.data.clip_seconds * job.data.dataset.sample_rate_hz)
    too_short = all(len(recording) < clip_samples for recording in job.data.noise)
    augment = job.config.augment
    if too_short and (augment.snr_noise_probability or (augment.noise_probability and augment.noise_amplitude)):
        said.append("no background noise is mixed in: the shards hold no noise recording as long as a clip")
    if job.config.tracking.checkpoints and job.config.tracking.wandb == "disabled":
        said.append("--tracking.checkpoints has no effect: only W&B takes them, and --tracking.wandb is disabled")
    return said


def _weights_without_effect(config: Config) -> list[str]:
    data = config.data
    if config.train.class_weights == "balanced" and data.balance == 1.0 and not (data.weights or data.max_share):
        return ["--train.class_weights balanced has no effect: with --data.balance 1 all words are drawn equally often"]
    return []


def _rate_that_never_falls(train: TrainConfig, epochs: float) -> list[str]:
    """Return a warning where a run is too short for its schedule, as when only its epochs were changed."""
    held = train.schedule == "hold" and train.warmup_epochs + train.hold_epochs >= epochs
    late = [epoch for epoch in train.step_epochs if train.schedule == "step" and epoch >= epochs]
    if held:
        return [
            f"the rate never falls: --train.hold_epochs {train.hold_epochs:g} reach to the end of {epochs:g} epochs"
        ]
    return [f"the rate does not drop at epoch {epoch:g}: the run has {epochs:g}" for epoch in late]


def _settings_without_effect(train: TrainConfig, epochs: float) -> list[str]:
    """Return a warning for each setting that another one keeps from mattering."""
    needs = {"focal_gamma": ("loss", "focal"), "step_epochs": ("schedule", "step"), "step_factor": ("schedule", "step")}
    needs |= {"hold_epochs": ("schedule", "hold"), "decay_power": ("schedule", "hold")}
    said = _recipe_without_effect(train)
    for name, (other, value) in needs.items():
        if getattr(train, name) != getattr(TrainConfig(), name) and getattr(train, other) != value:
            said.append(f"--train.{name} has no effect: --train.{other} is {getattr(train, other)}, not {value}")
    for name, instead in (("epochs", "steps"), ("eval_every_epochs", "eval_every_steps")):
        if getattr(train, instead) and getattr(train, name) != getattr(TrainConfig(), name):
            said.append(f"--train.{name} has no effect: --train.{instead} is {getattr(train, instead)}")
    for name in ("teacher_weight", "teacher_labels", "teacher_temperature"):
        if not train.teacher and getattr(train, name) != getattr(TrainConfig(), name):
            said.append(f"--train.{name} has no effect: there is no --train.teacher")
    if train.warmup_epochs >= epochs:
        said.append(f"the rate never gets beyond its warm-up: --train.warmup_epochs is {train.warmup_epochs:g}")
    return said


def _recipe_without_effect(train: TrainConfig) -> list[str]:
    """Return a warning for each setting that the choice of an optimizer, a schedule or a teacher's answer rules out."""
    said = []
    if train.nesterov and train.optimizer not in ("sgd", "muon"):
        said.append(f"--train.nesterov has no effect: --train.optimizer is {train.optimizer}, not sgd or muon")
    if train.final_share and train.schedule in ("step", "one_cycle", "constant"):
        said.append(f"--train.final_share has no effect: --train.schedule is {train.schedule}")
    if (
        train.teacher
        and train.teacher_labels == "hard"
        and train.teacher_temperature != TrainConfig.teacher_temperature
    ):
        said.append("--train.teacher_temperature has no effect: --train.teacher_labels is hard")
    return said


def transfer_warnings(config: Config, source: Checkpoint) -> list[str]:
    """Return in which features and clips the run that is begun with differs: its weights expect its own."""
    theirs = load_text(source.state["config"], name=str(source.path))
    differs = {
        name: f"--{name} {now} (there {was})"
        for name, (was, now) in differences(theirs, config).items()
        if name != "features.preset"
    }
    warnings = []
    for what, names in {"features": "features.", "clips": ("data.clip_seconds", "data.pad", "data.long")}.items():
        if changed := [said for name, said in differs.items() if name.startswith(names)]:
            warnings.append(f"its weights were trained on other {what}: {', '.join(changed)}")
    return warnings


def summary(results: Results, job: Job, progress: Progress) -> dict[str, Any]:
    """Return the content of `result.json`."""
    words = job.data.dataset.words
    return {
        **{split: evaluation.as_dict(words) for split, evaluation in results.items()},
        "best_step": progress.best_step,
        "steps": progress.step,
        "planned_steps": job.total_steps,
        "train_clips": progress.clips,
        "train_s": progress.train_s,
        "train_clips_per_s": progress.clips / progress.train_s if progress.train_s else None,
        "peak_memory_bytes": _peak_memory_bytes(job.run),
        "precision": precision_of(job.accelerator),
        "dataset_digest": job.data.dataset.digest,
        "parameters": sum(parameter.numel() for parameter in job.learner.model.parameters()),
        "skipped_clips": len(job.data.skipped_keys),
    }


def _peak_memory_bytes(run: RunFolder) -> int:
    """Return the largest memory that any reading saw, over all jobs of the run."""
    return max((record.get("perf/peak_memory_bytes") or 0 for record in read_metrics(run.metrics_file)), default=0)


def draw_plots(run: RunFolder, results: Results, words: tuple[str, ...], tracker: Tracker) -> None:
    """Write results.png and confusion.png (of the test split, or else of the validation split)."""
    curves, matrix = run.path / "results.png", run.path / "confusion.png"
    plots.learning_curves(read_metrics(run.metrics_file), curves)
    tracker.log_image("results", curves)
    for evaluation in list(results.values())[-1:]:
        plots.confusion(evaluation.confusion, words, matrix)
        tracker.log_image("confusion", matrix)


def show_end(display: Display, job: Job, result: dict[str, Any]) -> None:
    """Show the results and the commands that are likely to come next."""
    names = {"val": "validation", "test": "test"}
    rows = {"best step": f"{result['best_step']:,} of {result['steps']:,}"}
    rows |= {name: _accuracy_line(result[split]) for split, name in names.items() if split in result}
    if result["train_clips_per_s"]:
        rows["training"] = f"{duration(result['train_s'])} at {result['train_clips_per_s']:,.0f} clips/s"
    if result["peak_memory_bytes"]:
        rows["memory"] = f"{result['peak_memory_bytes'] / 2**30:.2f} GiB at most"
    speed = result["inference"]
    rows["inference"] = str(Speed(**speed))
    rows["run folder"] = str(job.run.path)
    display.finish(rows, next_steps.after_end(job, result["steps"]))


def show_stop(display: Display, job: Job, step: int, reason: str) -> None:
    """Take the bars away and say how to go on; the last words of a job that was stopped."""
    display.close()
    commands = next_steps.after_stop(job)
    by = f" by {reason}" if reason else ""  # what another rank was stopped by is not known here
    said = f"stopped{by}: step {step:,} of {job.total_steps:,} is saved in {job.run.path}"
    said += "; to go on:" if commands else "; start it again in the same way to go on"
    display.note(said)
    display.commands(commands)
    if display.is_disturbed:
        launcher.say_last("\n".join([said, *commands]))


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _parameters(job: Job) -> str:
    trained = parameter_count(job.learner.model)
    frozen = sum(parameter.numel() for parameter in job.learner.model.parameters()) - trained
    return f"{trained:,} parameters" + (f", and {frozen:,} frozen" if frozen else "")


def _model_name(job: Job) -> str:
    params = job.config.model.params
    return job.config.model.name + (
        f" ({', '.join(f'{name} {value}' for name, value in params.items())})" if params else ""
    )


def _accuracy_line(figures: dict[str, Any]) -> str:
    low, high = figures["accuracy_low"], figures["accuracy_high"]
    return (
        f"accuracy {figures['accuracy']:.4f}, interval {low:.4f} to {high:.4f} (95 %),"
        f" {figures['correct']:,} of {figures['n']:,}"
    )


def changed_settings(config: Config) -> dict[str, str]:
    """Return the settings that differ from the defaults, by flag."""
    skipped = {"config", "run_dir", "data.shards"}  # the table above names them already
    return {
        f"--{name}": f"{now} (default {default})"
        for name, (default, now) in differences(Config(), config).items()
        if name not in skipped
    }
