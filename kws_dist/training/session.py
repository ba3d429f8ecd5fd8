"""One job of a run: go on where the run left off, train, judge the result."""

from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from kws_dist.display import Display, Terminal, silent
from kws_dist.errors import TrainingError
from kws_dist.evaluation.evaluate import Evaluation, EvaluationStopped
from kws_dist.frontend.normalize import Statistics
from kws_dist.latency import Speed, measure
from kws_dist.run import RunFolder
from kws_dist.tracking import Tracker, sinks_of
from kws_dist.training import checkpoint, report, resume
from kws_dist.training.checkpoint import Checkpoint
from kws_dist.training.dry_run import rehearse
from kws_dist.training.front_end import training_statistics
from kws_dist.training.going_back import take_up
from kws_dist.training.job import Job
from kws_dist.training.loop import Loop
from kws_dist.training.mirroring import mirror_checkpoint, mirror_results
from kws_dist.training.parts import evaluator_of, parts_of
from kws_dist.training.profile import Profiler
from kws_dist.training.progress import Progress
from kws_dist.training.ranks import on_rank_0
from kws_dist.training.rebuild import rebuild_from, unfinished
from kws_dist.training.saver import Saver
from kws_dist.training.stop import StopRequest
from kws_dist.training.transfer import listed, open_source

_SPEED_BUDGET_S = 0.2  # a run ends with it, and is not to wait for it


def run_job(job: Job, stop: StopRequest) -> None:
    """Train until the end of the run or until asked to stop, and leave a run folder that says how it went."""
    if job.config.dry_run:
        _dry_run(job)
        return
    with ExitStack() as stack:
        console = Terminal()
        note = partial(console.print, soft_wrap=True, markup=False, highlight=False)
        on_rank_0(job.accelerator, lambda: stack.enter_context(job.run.open(note)))
        progress = _take_up(job, console)
        if progress is None:
            return
        job.learner.statistics = job.learner.statistics or statistics_of(job)
        display, tracker = _watchers(job, console, progress, stop)
        stack.enter_context(display)
        stack.enter_context(tracker)
        stack.callback(job.data.close)
        _announce(job, progress.step, display)
        saver = stack.enter_context(_saver(job, tracker, display)) if job.accelerator.is_main_process else None
        at_end = _trained(job, progress, stop, tracker, display, saver)
        if not (at_end and conclude(job, progress, stop, tracker, display)) and job.accelerator.is_main_process:
            job.run.set_state("stopped", progress.step, reason=stop.reason)
            report.show_stop(display, job, progress.step, stop.reason)
        stop.obeyed()


def _saver(job: Job, tracker: Tracker, display: Display) -> Saver:
    return Saver(job.run, display.warn, lambda path, is_best: mirror_checkpoint(job, path, is_best, tracker))


def _trained(
    job: Job, progress: Progress, stop: StopRequest, tracker: Tracker, display: Display, saver: Saver | None
) -> bool:
    """Train; return whether the end was reached, and not only a stop. All that was learnt is on the disk then."""
    train = job.config.train
    profiled_steps = train.profile if job.accelerator.is_main_process else 0
    with Profiler(profiled_steps, job.run.path / "profile", display.note, first_step=progress.step) as profiler:
        parts = parts_of(job, stop, tracker, display, saver=saver, after_step=profiler.step)
        at_end = Loop(parts, train, progress).run()
    on_rank_0(job.accelerator, lambda: saver.finish() if saver else None)
    if at_end and progress.skipped_steps >= progress.step > 0:
        raise TrainingError(
            f"all {progress.step} steps had a loss or gradient that is not finite, so nothing was learnt:"
            " lower --train.learning_rate, or set --train.clip_norm"
        )
    if at_end and progress.step < job.total_steps:
        why = f"validation was no better for {train.patience_epochs} epochs"
        if progress.out_of_time(train.max_minutes):
            why = f"--train.max_minutes {train.max_minutes:g} are over"
        display.note(f"{why}: the training ends at step {progress.step} of {job.total_steps}")
    return at_end


def _dry_run(job: Job) -> None:
    display = _display(job, Console(), 0) if job.accelerator.is_main_process else silent()
    _begin(job, Console())
    job.learner.statistics = job.learner.statistics or statistics_of(job)
    _announce(job, 0, display)
    rehearse(job, parts_of(job, StopRequest(), Tracker([]), display), display)


def _announce(job: Job, start_step: int, display: Display) -> None:
    """Show what is about to run, and what a person should know of it before."""
    display.startup(report.startup_rows(job, start_step), report.changed_settings(job.config), job.data.dataset.words)
    for warning in report.warnings(job):
        display.warn(warning)


def _take_up(job: Job, console: Console) -> Progress | None:
    """Go on from the right checkpoint, or begin; None if there is nothing left to do."""
    path = on_rank_0(job.accelerator, partial(_where, job, console))
    if path == resume.FINISHED:
        if job.accelerator.is_main_process:
            console.print(
                f"{job.run.path} is finished: test accuracy {job.run.result().get('test', {}).get('accuracy')};"
                " a larger --train.epochs extends it, and where validation ended it, a larger --train.patience_epochs",
                soft_wrap=True,
            )
        return None
    if path is None:
        _begin(job, console)
        return Progress()
    progress = take_up(job, Path(path))
    if not on_rank_0(job.accelerator, partial(_has_best, job.run, console)):
        progress.best_step = 0
    return progress


def _where(job: Job, console: Console) -> str | None:
    """Clear up after a crash, and return what `resume.where` does."""
    checkpoint.tidy(job.run.checkpoints)
    on_skip = partial(console.print, style="yellow", soft_wrap=True)
    steps_per_epoch = job.sampler.steps_per_epoch
    return resume.where(job.run, job.config, job.facts, steps_per_epoch=steps_per_epoch, on_skip=on_skip)


def _has_best(run: RunFolder, console: Console) -> bool:
    """Whether there is a best checkpoint; it may lie in the folder of a run that this one branches off from."""
    best = checkpoint.best_path(run.checkpoints)
    wrong = checkpoint.problem(best) if best.exists() else ""
    if wrong:
        said = f"warning: the best checkpoint is lost ({wrong}): what is best is chosen anew from here on"
        console.print(said, style="yellow", soft_wrap=True, highlight=False, markup=False)
    return best.exists() and not wrong


def _begin(job: Job, console: Console) -> None:
    """Begin with the weights of another run, if one is named."""
    warnings: list[str] = []
    if job.config.init_from:
        path = Path(job.config.init_from)
        source = open_source(path)
        transfer = job.learner.begin_with(source, job.data.dataset.words, job.config.features)
        if job.accelerator.is_main_process:
            console.print(f"begins with {transfer}", soft_wrap=True, highlight=False, markup=False)
            if not job.config.dry_run:
                job.run.write_transfer({**asdict(transfer), "source": str(transfer.source)})
        warnings += [note for note in (unfinished(path),) if note]
        warnings += report.transfer_warnings(job.config, source)
    elif job.learner.frozen:
        frozen = listed(job.learner.frozen)
        warnings.append(f"{frozen} stay random: they are frozen, and there is no --init_from to take them from")
    for warning in warnings if job.accelerator.is_main_process else ():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True, highlight=False, markup=False)


def statistics_of(job: Job) -> Statistics | None:
    """Compute what the features are normalised by, if they are, on rank 0 for all."""
    return on_rank_0(
        job.accelerator, partial(training_statistics, job.config, job.data, job.sampler, job.accelerator.device)
    )


def _watchers(job: Job, console: Console, progress: Progress, stop: StopRequest) -> tuple[Display, Tracker]:
    if not job.accelerator.is_main_process:
        return silent(), Tracker([])
    job.run.begin(job.config)
    job.run.set_state("running", progress.step)
    display = _display(job, console, progress.step)
    stop.watch(job.run.path, display)
    settings = asdict(job.config)
    sinks = sinks_of(job.config.tracking, job.run.path, settings, display.warn, progress.step)
    return display, Tracker(sinks, display.warn)


def _display(job: Job, console: Console, start_step: int) -> Display:
    steps = {"total_steps": job.total_steps, "steps_per_epoch": job.sampler.steps_per_epoch}
    return Display(console, start_step=start_step, **steps)


def _inference_speed(job: Job, best: Checkpoint) -> Speed:
    """Measure how fast the trained model answers here as tools/predict.py uses it: in float32, with its features."""
    trained, device = rebuild_from(best), job.accelerator.device
    clip_samples = round(job.config.data.clip_seconds * job.data.dataset.sample_rate_hz)
    front_end, model = trained.front_end.to(device), trained.model.to(device)
    return measure(front_end, model, clip_samples, device, budget_s=_SPEED_BUDGET_S)


def conclude(job: Job, progress: Progress, stop: StopRequest, tracker: Tracker, display: Display) -> bool:
    """Evaluate the best checkpoint on every held-out split and write what the run is judged by.

    Returns False if a stop was asked for before that was done.
    """
    best = checkpoint.load(checkpoint.best_path(job.run.checkpoints))
    job.learner.load(best.tensors, best.state)
    progress.best_step = best.state["step"]
    try:
        results = _judged(job, stop)
    except EvaluationStopped:
        return False
    if not job.accelerator.is_main_process:
        return True
    result = report.summary(results, job, progress)
    result["inference"] = asdict(_inference_speed(job, best))
    job.run.write_result(result)
    report.draw_plots(job.run, results, job.data.dataset.words, tracker)
    mirror_results(job, results, tracker)
    job.run.set_state("finished", progress.step)
    tracker.finish(0, {f"{split}/accuracy": evaluation.accuracy for split, evaluation in results.items()})
    report.show_end(display, job, result)
    return True


def _judged(job: Job, stop: StopRequest) -> dict[str, Evaluation]:
    """Evaluate on every held-out split, on the last of them with its worst clips."""
    splits = [split for split in ("val", "test") if split in job.data.stores]
    worst = {splits[-1]: job.config.tracking.worst_clips} if splits else {}
    return {split: evaluator_of(job, split, stop)(job.learner.evaluated, worst=worst.get(split, 0)) for split in splits}
