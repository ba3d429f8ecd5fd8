"""Two real gloo processes train the same thing as one."""

import json
from pathlib import Path

import numpy as np
import pytest
from launching import SMALL, last_json, python, run, two_ranks
from safetensors.numpy import load_file

from kws_dist.metrics_file import read_metrics
from kws_dist.shards.read import open_dataset

pytestmark = pytest.mark.dist

STEPS = 10
SCRIPT = "tests/training/rank_script.py"
# One process takes two micro-batches where two processes take one each, so that batch norm sees the same clips.
# No dropout, whose masks depend on the rank.
SETTINGS = ("--model.name", "gru", "--model.params", "hidden", "8", "layers", "1", "dropout", "0.0")
SETTINGS += ("--train.global_batch", "12", "--train.precision", "fp32", "--train.ema_decay", "0.9")


@pytest.fixture(scope="module", params=["balanced", "exactly_once"])
def records(request: pytest.FixtureRequest, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one and what two processes drew and learnt."""
    folder = tmp_path_factory.mktemp("ranks")
    balance = ("--data.balance", "1" if request.param == "balanced" else "0")
    settings = (folder, "--data.shards", tiny_dataset, *SETTINGS, *balance)
    run(python(SCRIPT, *settings, "--train.accumulate", "2"))
    run(two_ranks(SCRIPT, *settings))
    return folder


def test_the_ranks_draws_joined_are_those_of_one_process(records: Path) -> None:
    alone = np.load(records / "draws-1-0.npz")["drawn"]
    ranks = [np.load(records / f"draws-2-{rank}.npz")["drawn"] for rank in (0, 1)]
    assert ranks[0].shape == ranks[1].shape
    joined = np.stack([part.reshape(3, STEPS, 6) for part in ranks], axis=2).reshape(3, -1)
    assert np.array_equal(joined, alone)
    assert np.array_equal(alone[0], np.arange(12 * STEPS))


@pytest.mark.parametrize("steps", [1, STEPS])
def test_steps_give_the_same_weights_and_average_within_float_tolerance(records: Path, steps: int) -> None:
    alone = load_file(records / "weights-1-0.safetensors")
    assert any(name.startswith(f"{steps}.average.") for name in alone)
    for rank in (0, 1):
        together = load_file(records / f"weights-2-{rank}.safetensors")
        for name, weight in alone.items():
            if name.startswith(f"{steps}."):
                np.testing.assert_allclose(together[name], weight, atol=2e-5, err_msg=name)


WITHOUT_BATCH_NORM = ("--model.name", "kwt")
WITH_BATCH_NORM = (*SETTINGS[:9], "--train.sync_batchnorm")
CUT_UP = {
    # batch norm of one process is over a micro-batch, so synced batch norm has to see as many clips at a time
    "without batch norm": (WITHOUT_BATCH_NORM, [(1, 1), (1, 4), (2, 2)]),
    "synced batch norm": (WITH_BATCH_NORM, [(1, 2), (2, 2)]),
}


@pytest.mark.parametrize("what", CUT_UP)
@pytest.mark.parametrize("balance", ["1", "0"])
def test_a_global_batch_teaches_the_same_however_it_is_cut_up(
    tiny_dataset: Path, tmp_path: Path, what: str, balance: str
) -> None:
    settings, cuts = CUT_UP[what]
    settings += ("--data.shards", str(tiny_dataset), "--data.balance", balance, *SETTINGS[-4:])
    settings += ("--augment.mixup_probability", "0.5", "--train.label_smoothing", "0.1", "--train.clip_norm", "1.0")
    learnt = []
    for world, accumulate in cuts:
        folder = tmp_path / f"{world}-{accumulate}"
        folder.mkdir()
        words = (folder, *settings, "--train.accumulate", str(accumulate))
        run(python(SCRIPT, *words) if world == 1 else two_ranks(SCRIPT, *words))
        learnt.append(load_file(folder / f"weights-{world}-0.safetensors"))
        buffers = [np.load(folder / f"figures-{world}-{rank}.npz")["buffers"] for rank in range(world)]
        assert all(np.array_equal(buffers[0], other) for other in buffers)
    moved = [name for name in learnt[0] if name.startswith("1.")]
    assert any(not np.allclose(learnt[0][name], learnt[0][name.replace("1.", "10.", 1)], atol=1e-3) for name in moved)
    for other in learnt[1:]:
        for name, weight in other.items():
            np.testing.assert_allclose(weight, learnt[0][name], atol=5e-5, err_msg=name)


def test_muon_moves_the_same_kernels_on_two_ranks_as_on_one(tiny_dataset: Path, tmp_path: Path) -> None:
    """Wrapping for several ranks may give a weight new memory, which Muon's matrices have to follow."""
    settings = (tmp_path, "--data.shards", tiny_dataset, "--model.name", "cnn4", "--model.params", "channels", "8")
    settings += ("--train.global_batch", "12", "--train.optimizer", "muon")
    run(python(SCRIPT, *settings, "--train.accumulate", "2"))
    run(two_ranks(SCRIPT, *settings))
    alone, together = (load_file(tmp_path / f"weights-{world}-0.safetensors") for world in (1, 2))
    kernels = [name for name in alone if name.startswith("1.") and alone[name].ndim == 4]
    moved = [name for name in kernels if not np.allclose(alone[name], alone[name.replace("1.", "10.", 1)], atol=1e-3)]
    assert moved == kernels
    for name in kernels:
        np.testing.assert_allclose(together[name], alone[name], atol=5e-3, err_msg=name)
        last = name.replace("1.", "10.", 1)
        assert not np.allclose(together[last], together[name], atol=1e-3), name


def test_both_ranks_hold_the_same_weights_and_statistics_to_the_bit(records: Path) -> None:
    weights = [load_file(records / f"weights-2-{rank}.safetensors") for rank in (0, 1)]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    figures = [np.load(records / f"figures-2-{rank}.npz") for rank in (0, 1)]
    assert np.array_equal(figures[0]["buffers"], figures[1]["buffers"])


def test_figures_and_a_request_to_stop_are_shared(records: Path) -> None:
    alone = np.load(records / "figures-1-0.npz")
    for rank in (0, 1):
        figures = np.load(records / f"figures-2-{rank}.npz")
        assert figures["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        assert figures["stop"]


def test_evaluation_counts_every_clip_once(records: Path, tiny_dataset: Path) -> None:
    labels = open_dataset(tiny_dataset).rows("test").label
    for name in ("1-0", "2-0", "2-1"):
        confusion = np.load(records / f"figures-{name}.npz")["confusion"]
        assert np.array_equal(confusion.sum(axis=1), np.bincount(labels))


def test_a_run_on_two_ranks_can_go_on_on_one_and_be_evaluated_on_two(tiny_dataset: Path, tmp_path: Path) -> None:
    arguments = ("--data.shards", tiny_dataset, "--run_dir", tmp_path / "run", *SMALL)
    run(two_ranks("launch/train.py", *arguments, "--train.epochs", "2"))
    run(python("launch/train.py", *arguments, "--train.epochs", "3"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    steps = [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in record]
    assert steps == list(range(1, 7))
    figures = last_json(run(two_ranks("launch/evaluate.py", "--run_dir", tmp_path / "run")).stdout)
    assert figures["correct"] == result["test"]["correct"]
    assert figures["n"] == result["test"]["n"]
