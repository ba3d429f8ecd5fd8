"""Sweeps that Weights & Biases steers: `launch/train.py` understands its agent as it is."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import ROOT, environment, python
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from kws_dist.config import Config, differences, parse
from kws_dist.errors import UsageError


def wandb_command(chosen: dict[str, Any], program: str) -> list[str]:
    """The command line of a trial, made of the example by W&B's own agent's functions, as the agent does."""
    content = yaml.load((ROOT / "configs" / "sweeps" / "wandb.yaml").read_text(), Loader=yaml.SafeLoader)
    assert content["metric"]["name"] == "val/accuracy"
    made = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    words = {"${program}": [program], "${args}": made["args"]}
    return [word for part in create_sweep_command(content["command"]) for word in words.get(part, [part])]


def test_the_settings_that_wandb_chooses_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = wandb_command({"train.learning_rate": 0.0123, "train.global_batch": 100}, "launch/train.py")
    assert command[4:] == [
        *("--config", "configs/bcresnet1.yaml", "--data.shards", "data/real10", "--tracking.wandb", "online"),
        *("--train.learning_rate=0.0123", "--train.global_batch=100"),
    ]
    config = parse(command[4:])
    assert (config.train.learning_rate, config.train.global_batch) == (0.0123, 100)


def test_switches_that_wandb_chooses_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = parse(wandb_command({"train.nesterov": False, "data.device_share": True}, "launch/train.py")[4:])
    assert config.train.nesterov is False
    assert config.data.device_share is True
    assert parse(["--train.nesterov=true", "--model.params=tau 3"]).model.params == {"tau": 3}


def of_agent(**chosen: Any) -> dict[str, Any]:
    """The settings that differ from the defaults when W&B chooses these (`a__b` is `a.b`), on one command line."""
    args = {name.replace("__", "."): {"value": value} for name, value in chosen.items()}
    config = parse(create_sweep_command_args({"args": args})["args"])
    return {name: now for name, (_, now) in differences(Config(), config).items()}


def test_lists_pairs_and_whole_numbers_that_wandb_chooses_are_understood() -> None:
    assert of_agent(train__epochs=2.0, data__lanes=1e3) == {"train.epochs": 2, "data.lanes": 1000}
    assert of_agent(train__step_epochs=[3, 5.5]) == {"train.step_epochs": (3.0, 5.5)}
    assert of_agent(train__step_epochs=[]) == {"train.step_epochs": ()}
    assert of_agent(train__freeze=["blocks.*", "don't"]) == {"train.freeze": ("blocks.*", "don't")}
    assert of_agent(data__weights={"yes": 2, "_unknown_": 0.5}) == {"data.weights": {"yes": 2.0, "_unknown_": 0.5}}
    assert parse(['--model.params={"depth":14,"norm":true}']).model.params == {"depth": 14, "norm": True}
    assert parse(["--train.freeze=[ab]* *norm*"]).train.freeze == ("[ab]*", "*norm*")


def test_nested_parameters_of_wandb_are_sections() -> None:
    chosen = of_agent(train={"epochs": 3.0, "nesterov": True, "step_epochs": [1]}, model={"params": {"depth": 14.0}})
    told = {"train.epochs": 3, "train.nesterov": True, "train.step_epochs": (1.0,), "model.params": {"depth": 14}}
    assert chosen == told


values = (
    st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.from_regex("[a-z ':,{]{2,8}x", fullmatch=True)
)


@given(params=st.dictionaries(st.from_regex("[a-z][a-z_]{0,8}x", fullmatch=True), values, max_size=3))
@settings(deadline=None, max_examples=40)
def test_any_parameters_of_a_model_come_through(params: dict[str, Any]) -> None:
    assert of_agent(model__params=params) == ({"model.params": params} if params else {})


@pytest.mark.parametrize(
    ("word", "value"), [("no", False), ("0", False), ("OFF", False), ("1", True), ("yes", True), ("True", True)]
)
def test_switches_take_every_spelling_behind_an_equals_sign(word: str, value: bool) -> None:
    config = parse([f"--train.compile={word}", f"--data.device_share={word}"])
    assert config.train.compile is value
    assert config.data.device_share is value


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--train.compile=maybe", "^--train.compile should be true or false, not 'maybe'"),
        ("--model.params={'depth': [3]}", "^--model.params should be one value, not a list"),
        ("--train={'nesterov': 'perhaps'}", "^--train.nesterov should be true or false, not 'perhaps'"),
    ],
)
def test_a_value_that_cannot_be_meant_is_answered_with_its_flag(argument: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse([argument])


def test_a_trial_of_wandb_trains_in_a_folder_of_its_own(tiny_dataset: Path, tmp_path: Path) -> None:
    link = tmp_path / "configs"
    link.symlink_to(ROOT / "configs")
    small = {
        "data.shards": str(tiny_dataset),
        "tracking.wandb": "disabled",
        "train.epochs": 1,
        "train.global_batch": 12,
    }
    command = wandb_command(small, str(ROOT / "launch" / "train.py"))
    first_on_path = str(Path(python("x")[0]).parent)
    env = {**environment(), "WANDB_RUN_ID": "ab12", "PATH": f"{first_on_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs" / "wandb" / "ab12" / "state.json").read_text())["status"] == "finished"
