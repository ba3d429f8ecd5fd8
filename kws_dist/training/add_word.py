"""Adding words to a trained run: the data and the settings of the fine-tuning."""

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kws_dist.config import Config, load_file, parse, to_yaml
from kws_dist.corpus.clip import SAMPLE_RATE_HZ
from kws_dist.data.clip_reader import refuse_long
from kws_dist.errors import UsageError
from kws_dist.models.layers import from_last_block
from kws_dist.rehearsal import Joined, OldClips, check_new_words, choose_old, counts_of, open_new
from kws_dist.run import RunFolder
from kws_dist.shards.plan import make_plan
from kws_dist.shards.read import Dataset, open_dataset
from kws_dist.shards.write import Written, write_dataset
from kws_dist.training.before_after import clip_policy, held_out
from kws_dist.training.data import match_labels
from kws_dist.training.progress import LAST
from kws_dist.training.rebuild import Rebuilt, rebuild

_SHARD_CLIPS = 2000


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asks for."""

    run_dir: Path
    """The run that is to learn the words."""
    root: Path
    """Recordings of the new words: a folder or an archive with one folder for each word."""
    out: Path
    """Folder of the new run."""
    recipe: Path
    """YAML file whose section `train` says how to fine-tune."""
    shards: str = ""
    """Shards of the old words; by default those that the run was trained on."""
    rehearsal_clips: int = 100
    """Training clips of each old word that are heard again; 0 is all."""
    speaker_from: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Addition:
    """All that is decided before anything is written."""

    wanted: Wanted
    trained: Rebuilt
    config: Config
    """Of the fine-tuning."""
    joined: Joined
    old: OldClips
    new_counts: dict[str, Counter[str]]
    """Recordings of each new word, by split."""
    same_data: bool
    """Whether the old clips are of the data that the run was trained on."""

    @property
    def data_dir(self) -> Path:
        """Folder of the shards that the new run is trained on."""
        return self.wanted.out / "data"


def prepare(wanted: Wanted, more_flags: Sequence[str] = ()) -> Addition:
    """Open the run, the recordings and the old clips, and decide how to go on; nothing is written.

    `more_flags`: settings of the training, as on the command line of launch/train.py, which override the recipe's.
    Raises `UsageError` for whatever is in the way, `DataError` where the run or the shards are damaged.
    """
    trained = _open_run(wanted)
    seconds = trained.config.data.clip_seconds
    new = open_new(wanted.root, clip_seconds=seconds, speaker_from=wanted.speaker_from, split=wanted.split)
    counts = counts_of(new)
    check_new_words(counts, trained.words, wanted.root, wanted.run_dir)
    _check_case(counts, trained.words, wanted)
    config = _settings(wanted, trained, more_flags)
    RunFolder(wanted.out).check_same_settings(config)
    dataset = _open_old(wanted, trained)
    old = choose_old(dataset, trained.words, counts.keys(), clips_per_word=wanted.rehearsal_clips, seed=config.seed)
    joined = Joined(
        dataset,
        old,
        new,
        [*trained.words, *counts],
        about={"rehearsal_clips": wanted.rehearsal_clips, "seed": config.seed},
        skip_damaged=config.data.on_bad_clip == "skip",
    )
    same_data = dataset.digest == trained.state["dataset_digest"]
    return Addition(
        wanted=wanted,
        trained=trained,
        config=config,
        joined=joined,
        old=old,
        new_counts=counts,
        same_data=same_data,
    )


def write_shards(addition: Addition, command: Sequence[str], on_clips: Callable[[int], None]) -> Written:
    """Write the shards of the new run, or check those that are there; `on_clips` hears of clips that are done."""
    joined, out = addition.joined, addition.data_dir
    plan = make_plan(joined, shard_clips=_SHARD_CLIPS, seed=addition.config.seed)
    out.mkdir(parents=True, exist_ok=True)
    task = f"{len(joined.words)} words, of which {', '.join(addition.new_counts)} added"
    return write_dataset(joined, plan, out, task=task, command=command, on_clips=on_clips)


def _open_run(wanted: Wanted) -> Rebuilt:
    if wanted.rehearsal_clips < 0:
        raise UsageError(f"--rehearsal_clips {wanted.rehearsal_clips}: a number of clips, or 0 for all")
    if not wanted.run_dir.is_dir():
        raise UsageError(f"--run_dir {wanted.run_dir}: there is no such folder; name that of a run")
    if wanted.out.resolve() == wanted.run_dir.resolve():
        raise UsageError(f"--out {wanted.out} is the run itself, which stays as it is; choose another folder")
    status = RunFolder(wanted.run_dir).status()
    if status not in ("finished", None):
        raise UsageError(f"--run_dir {wanted.run_dir} is {status}, not finished: give its training command again first")
    trained = rebuild(wanted.run_dir)
    if trained.state["sample_rate_hz"] != SAMPLE_RATE_HZ:
        raise UsageError(
            f"--run_dir {wanted.run_dir} hears {trained.state['sample_rate_hz']} Hz, and shards of recordings are made"
            f" at {SAMPLE_RATE_HZ} Hz: choose a run that was trained on those"
        )
    return trained


def _check_case(new: Collection[str], known: Collection[str], wanted: Wanted) -> None:
    """Refuse a word that is most likely a known one, spelt otherwise: the model would have to tell it from itself."""
    alike = {word.casefold(): word for word in known}
    for word in new:
        if word.casefold() in alike:
            raise UsageError(
                f"--root {wanted.root}: {word!r} differs only in case from {alike[word.casefold()]!r}, which --run_dir"
                f" {wanted.run_dir} knows already; take it out, or if it is another word, rename its folder"
            )


def _open_old(wanted: Wanted, trained: Rebuilt) -> Dataset:
    shards = wanted.shards or trained.config.data.shards
    whose = f"--data.shards {shards}" if wanted.shards else f"{shards}, on which --run_dir {wanted.run_dir} was trained"
    remedy = "name a folder with clips of the old words: --data.shards DIR"
    if not (Path(shards) / "dataset.json").is_file():
        raise UsageError(f"{whose}: there are no shards in such a folder; {remedy}")
    dataset = open_dataset(Path(shards), check_sizes=trained.config.data.on_bad_clip != "skip")
    for split in dataset.splits:
        rows = dataset.rows(split)
        match_labels(rows.label, dataset.words, trained.words)  # refuses words that the run does not know
        refuse_long(rows, clip_policy(trained.config))
    here = dataset.meta["clips_per_word"].get("train", {})
    missing = [word for word in trained.words if not here.get(word)]
    if missing:
        raise UsageError(f"{whose}: no training clips of {', '.join(missing)}; {remedy}")
    if not any(held_out(dataset, split, trained.words) for split in ("test", "val")):
        raise UsageError(f"{whose}: no test clips, so nothing could be said of the old words; {remedy}")
    return dataset


_DECIDED_HERE = ("--resume", "--init_from", "--train.eval_every_epochs", "--train.best_by")
_DECIDED_HERE += ("--train.patience_epochs",)


def _settings(wanted: Wanted, trained: Rebuilt, more_flags: Sequence[str]) -> Config:
    """Return the run's settings with the recipe's training, and what the command line says besides."""
    run, train = trained.config, load_file(wanted.recipe).train
    base = replace(
        run,
        data=replace(run.data, balance=1.0, residency="auto" if run.data.residency == "stream" else run.data.residency),
        train=replace(
            train,
            precision=run.train.precision,
            train_last_layers=train.train_last_layers or from_last_block(trained.model),
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "add_word.yaml"
        file.write_text(to_yaml(base), encoding="utf-8")
        config = parse(["--config", str(file), *more_flags])
    for name in _DECIDED_HERE:
        if any(flag == name or flag.startswith(f"{name}=") for flag in more_flags):
            raise UsageError(f"{name} is decided by tools/add_word.py: leave it out")
    return replace(
        config,
        config="",
        run_dir=str(wanted.out),
        resume="auto",
        init_from=str(wanted.run_dir),
        data=replace(config.data, shards=str(wanted.out / "data")),
        # Few new recordings are held out, if any: the best by validation would be one that knows the old words alone.
        # So none is chosen, and one validation, at the end, is enough.
        train=replace(config.train, best_by=LAST, eval_every_epochs=config.train.epochs),
    )
