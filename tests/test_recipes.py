"""Every recipe that is shipped can be trained: it learns spoken words, and its run folder repeats it."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from accelerate.state import AcceleratorState

from kws_dist.config import Config, differences, load_file, parse
from kws_dist.corpus.synth import Synth
from kws_dist.metrics_file import read_metrics
from kws_dist.run import RunFolder
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import write_dataset
from kws_dist.training.job import build_job
from kws_dist.training.ranks import make_accelerator
from kws_dist.training.session import run_job
from kws_dist.training.stop import StopRequest

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
BEGIN_FROM = {"m5_finetune": "m5", "add_word": "bcresnet1"}
"""Recipes that begin with the weights of another."""
LIGHTER = {"res15": ("depth", "8")}
"""Parameters of models that would take minutes."""
SLOWER = {"crnn": 16}
"""Epochs of recipes that have hardly begun to learn after 8."""
BATCH, CLIPS = 12, 48


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two words, spoken by a synthesiser in eight voices: 48 clips for training."""
    out = tmp_path_factory.mktemp("spoken") / "shards"
    source = Synth(("yes", "seven"), voices=8, per_word=32, seed=0)
    write_dataset(source, make_plan(source, shard_clips=50, seed=0), out, task="spoken", command=["speak"])
    return out


def train(recipe: str, spoken: Path, run_dir: Path, *more: str | Path) -> Config:
    """Train a recipe for a few steps, at its peak rate after a few steps of warm-up."""
    epochs = SLOWER.get(recipe, 8)
    few = ("--train.epochs", epochs, "--train.global_batch", BATCH, "--train.warmup_epochs", "2")
    once = ("--train.log_every_steps", "1", "--train.eval_every_epochs", epochs, "--data.residency", "device")
    where = ("--config", CONFIGS / f"{recipe}.yaml", "--data.shards", spoken, "--run_dir", run_dir)
    lighter = ("--model.params", *LIGHTER[recipe]) if recipe in LIGHTER else ()
    words = [str(word) for word in (*where, *few, *once, *lighter, *more)]
    config = parse(words)
    if config.train.schedule == "exponential":  # which would be over before it has begun
        config = parse([*words, "--train.final_share", "1"])
    AcceleratorState._reset_state(reset_partial_state=True)
    run_job(build_job(config, make_accelerator(config.train)), StopRequest())
    AcceleratorState._reset_state(reset_partial_state=True)
    return config


@pytest.fixture(scope="module")
def begun(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs for the recipes that begin with one."""
    folder = tmp_path_factory.mktemp("begun")
    for recipe in set(BEGIN_FROM.values()):
        train(recipe, spoken, folder / recipe)
    return {recipe: folder / source for recipe, source in BEGIN_FROM.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_loss_falls_and_its_run_folder_repeats_it(
    recipe: str, spoken: Path, begun: dict[str, Path], tmp_path: Path
) -> None:
    more = ("--init_from", begun[recipe]) if recipe in begun else ()
    config = train(recipe, spoken, tmp_path / "run", *more)
    losses = [
        record["train/loss"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in record
    ]
    assert len(losses) == config.train.epochs * CLIPS // BATCH
    assert fmean(losses[-8:]) < 0.95 * fmean(losses[:4])
    again = load_file(RunFolder(tmp_path / "run").config_file)
    assert differences(replace(config, config=""), again) == {}


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_header_says_where_it_is_from_and_what_it_reaches(recipe: str) -> None:
    first, second, *_ = (CONFIGS / f"{recipe}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert re.match(r"# Should reach (a test accuracy (of|above) 0\.\d+|what )", second)


def swept(*names: str) -> list[str]:
    """The recipes that sweeps are about."""
    plans = [yaml.safe_load((CONFIGS / "sweeps" / f"{name}.yaml").read_text()) for name in names]
    files = [file for plan in plans for file in plan["grid"].get("config", [])]
    return sorted(
        Path(file).stem for file in files + [cell["config"] for plan in plans for cell in plan.get("cells", [])]
    )


def test_no_recipe_is_forgotten_where_it_says_every_recipe() -> None:
    from_nothing = sorted(set(RECIPES) - set(BEGIN_FROM))
    assert swept("one_epoch") == swept("one_epoch_compiled") == from_nothing
    assert swept("table", "table_slow") == sorted(set(from_nothing) - {"quickstart"})
