"""Settings: a file and a command line say the same things in the same way, and no mistake passes in silence."""

import ast
import contextlib
import inspect
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kws_dist.config import Config, differences, load_file, load_text, parse, to_yaml
from kws_dist.errors import UsageError

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def from_yaml(text: str) -> Config:
    return load_text(text, name="some.yaml")


def changed(config: Config) -> dict[str, Any]:
    """The settings that are not at their defaults."""
    return {name: value for name, (_, value) in differences(Config(), config).items()}


def written(folder: Path, text: str) -> str:
    """The path of a file with the text."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def exit_message(call: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """What a person reads when a call ends the program, which must be with code 2; without the box around it."""
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 2
    said = capsys.readouterr()
    return " ".join((said.out + said.err).replace("│", " ").split())


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "null", "~", "1", "2024-01-01", "0x10"])
def test_words_that_yaml_reads_as_something_else_survive(word: str) -> None:
    config = from_yaml(f"tracking: {{project: {word}}}\nmodel: {{params: {{name: {word}x}}}}")
    assert config.tracking.project == word
    assert config.model.params == {"name": f"{word}x"}


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1e3", 1e3), ("-2.5E-4", -2.5e-4), ("3", 3.0), (".5", 0.5)]
)
def test_numbers_survive_in_every_spelling(text: str, value: float) -> None:
    assert from_yaml(f"train: {{weight_decay: {text}}}").train.weight_decay == value
    assert parse(["--train.weight_decay", text]).train.weight_decay == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("yes", True), ("on", True), ("false", False), ("no", False), ("off", False)],
)
def test_switches_take_every_spelling_of_yaml(text: str, value: bool) -> None:
    assert from_yaml(f"train: {{nesterov: {text}}}").train.nesterov is value


def test_a_typing_mistake_in_a_file_says_what_was_probably_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, meant in [
        ("train: {epohcs: 3}", "--train.epochs"),
        ("trian: {epochs: 3}", "--train.epochs"),
        ("data: {shrads: /a/path/that/is/rather/long/as/paths/tend/to/be}", "--data.shards"),
        ("train: {lerning_rate: -1e-4}", "--train.learning_rate"),
        ("sed: 3", "--seed"),
    ]:
        file = written(tmp_path, text)
        said = exit_message(lambda file=file: parse(["--config", file]), capsys)
        assert "erhaps you meant" in said, said
        assert meant in said, said
        assert file in said.replace(" ", ""), said


def test_a_typing_mistake_in_a_flag_says_what_was_probably_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, meant in [("--train.epohcs", "--train.epochs"), ("--data.shrads", "--data.shards")]:
        said = exit_message(lambda flag=flag: parse([flag, "3"]), capsys)
        assert "erhaps you meant" in said, said
        assert meant in said, said


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("train", "epochs", "many"), ("train", "epochs", "1.5"), ("data", "residency", "cloud"), ("data", "balance", "x")],
)
def test_a_wrong_value_in_either_names_the_setting(
    section: str, name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for call in (
        lambda: parse([f"--{section}.{name}", value]),
        lambda: from_yaml(f"{section}: {{{name}: {value}}}"),
    ):
        assert f"--{section}.{name}" in exit_message(call, capsys)


def test_the_command_line_beats_the_file_wherever_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path, "seed: 5\ntrain: {epochs: 7, learning_rate: 0.3, nesterov: true}")
    flags = ["--train.epochs", "9", "--train.no_nesterov"]
    for arguments in (["--config", file, *flags], [*flags, f"--config={file}"], [flags[2], "--config", file, *flags]):
        config = parse(arguments)
        assert changed(config) == {"config": file, "seed": 5, "train.epochs": 9, "train.learning_rate": 0.3}


def test_the_last_of_two_files_is_the_one_that_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("seed: 1")
    (tmp_path / "b").write_text("train: {epochs: 3}")
    config = parse(["--config", str(tmp_path / "a"), f"--config={tmp_path / 'b'}"])
    assert changed(config) == {"config": str(tmp_path / "b"), "train.epochs": 3}


def test_without_a_file_or_flags_everything_is_at_its_default() -> None:
    assert parse([]) == Config() == from_yaml("") == from_yaml("# nothing\n---\n")


def test_model_parameters_come_from_file_and_command_line_with_their_types(tmp_path: Path) -> None:
    text = "model: {name: gru, params: {width: 64, dropout: 1e-1, deep: true, kind: no, shift: -1}}"
    of_file = {"width": 64, "dropout": 0.1, "deep": True, "kind": "no", "shift": -1}
    assert from_yaml(text).model.params == of_file
    words = ["width", "64", "dropout", "1e-1", "deep", "True", "kind", "no", "shift", "-1"]
    of_flags = parse(["--model.name", "gru", "--model.params", *words]).model.params
    assert of_flags == of_file
    assert [type(value) for value in of_flags.values()] == [int, float, bool, str, int]
    file = written(tmp_path, text)
    both = parse(["--config", file, "--model.params", "width", "32", "new", "1"])
    assert both.model.params == {**of_file, "width": 32, "new": 1}
    other = parse(["--config", file, "--model.name", "bcresnet", "--model.params", "tau", "3"])
    assert other.model.params == {"tau": 3}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_loads_says_where_it_is_from_and_round_trips(path: Path) -> None:
    config = load_file(path)
    assert config != Config()
    assert from_yaml(to_yaml(config)) == config
    assert parse(["--config", str(path)]) == replace(config, config=str(path))
    header = path.read_text().splitlines()[:2]
    assert all(line.startswith("# ") for line in header)


def test_there_are_shipped_files() -> None:
    assert SHIPPED


numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
names = st.from_regex(r"[a-z]{2}[a-z_]{0,8}x", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)


@given(
    seed=st.integers(-(2**63), 2**63),
    rate=st.floats(allow_nan=False),
    text=texts,
    nesterov=st.booleans(),
    pad=st.sampled_from(["end", "center"]),
    params=st.dictionaries(names, numbers | st.booleans() | names, max_size=3),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_written_reads_back_the_same(
    seed: int, rate: float, text: str, nesterov: bool, pad: Any, params: dict[str, Any]
) -> None:
    base = Config()
    config = replace(
        base,
        seed=seed,
        run_dir=text,
        data=replace(base.data, pad=pad, shards=f"-{text}"),
        model=replace(base.model, params=params),
        train=replace(base.train, learning_rate=rate, clip_norm=math.inf, nesterov=nesterov),
    )
    again = from_yaml(to_yaml(config))
    assert again == config
    assert {key: type(value) for key, value in again.model.params.items()} == {
        key: type(value) for key, value in params.items()
    }


def test_what_concerns_one_call_only_is_not_written() -> None:
    one_call = replace(Config(), config="a.yaml", dry_run=True, debug=True)
    assert from_yaml(to_yaml(one_call)) == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: [", "is not YAML"),
        ("- train", "not a list"),
        ("just words", "not a str"),
        ("train: 3", "train should be a section"),
        ("model: {params: 3}", "params should be a section"),
        ("seed: [1, 2]", "seed should be one value, not a list"),
        ("seed: [{a: b}]", "seed should be one value, not a list"),
        ("model: {params: {tau: [1]}}", "params should be one value, not a list"),
        ("train: {nesterov: perhaps}", "nesterov should be true or false, not 'perhaps'"),
        ("seed: 1\nseed: 2", "seed is there twice, again in line 2"),
        ("train: {epochs: 1}\ndata: {}\ntrain: {epochs: 2}", "train is there twice, again in line 3"),
        ("train:\n  epochs: 1\n  epochs: 1", "epochs is there twice, again in line 3"),
        ("a: &x [*x]", "is not YAML"),
        ("seed: !!python/object/apply:os.system [ls]", "seed should be one value"),
        ("\0", "is not YAML"),
    ],
)
def test_a_file_that_is_not_settings_is_one_sentence_naming_it(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"^some\.yaml.*{says}") as caught:
        from_yaml(text)
    assert "\n" not in str(caught.value)


def test_a_section_without_lines_is_no_change() -> None:
    assert changed(from_yaml("train: # all commented out\nmodel:\n  params:\nseed: 2")) == {"seed": 2}


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path, says in [("nowhere.yaml", "no such file"), (".", "cannot be read"), ("binary.yaml", "cannot be read")]:
        with pytest.raises(UsageError, match=f"--config .*{says}"):
            parse(["--config", str(tmp_path / path)])


yaml_like = st.recursive(
    st.sampled_from(["a", "1", "-1", "yes", "''", "{}", "[]", "--seed", "&a b", "*a", "!!int 3", "'", "? x", "null"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(
            st.sampled_from(["train", "seed", "model", "params", "epochs", "x", "--debug"]), inner, max_size=3
        ).map(lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs.items()) + "}")
    ),
    max_leaves=6,
)


@given(text=yaml_like | st.text(max_size=30))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_settings_or_wrong_use_and_never_a_crash(text: str) -> None:
    result: Any
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            result = from_yaml(text)
    except UsageError as error:
        result = error.exit_code
    except SystemExit as ended:
        result = ended.code
    assert isinstance(result, Config) or result == 2


def all_configs() -> Sequence[type]:
    """The class of all settings, and those of its sections."""
    return [Config, *(type(section) for section in vars(Config()).values() if is_dataclass(section))]


def described(owner: type) -> set[str]:
    """The settings that have a sentence under them."""
    (tree,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        line.target.id
        for line, below in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and str(below.value.value).strip().endswith(".")
    }


@pytest.mark.parametrize("owner", all_configs(), ids=lambda owner: owner.__name__)
def test_every_setting_says_under_it_what_it_is(owner: type) -> None:
    """Sections are described by the docstring of their class."""
    assert owner.__doc__
    sections = {field.name for field in fields(owner) if is_dataclass(getattr(Config(), field.name, None))}
    settings_here = {field.name for field in fields(owner)} - (sections if owner is Config else set())
    assert set().union(*(described(one) for one in owner.__mro__ if is_dataclass(one))) == settings_here


@pytest.mark.parametrize("owner", all_configs(), ids=lambda owner: owner.__name__)
def test_settings_are_frozen_and_given_by_name(owner: Any) -> None:
    assert owner.__dataclass_params__.frozen
    assert all(field.kw_only for field in fields(owner))


def test_differences_name_the_setting_and_both_values() -> None:
    other = replace(Config(), seed=3, train=replace(Config().train, epochs=4))
    assert differences(Config(), other) == {"seed": (0, 3), "train.epochs": (30, 4)}
    assert differences(other, other) == {}


def test_a_preset_sets_all_features_and_what_is_given_besides_overrides_it(tmp_path: Path) -> None:
    config = parse(["--features.preset", "matchboxnet", "--features.hop_ms", "20"])
    assert (config.features.kind, config.features.coefficients, config.features.hop_ms) == ("mfcc", 64, 20)
    from_file = from_yaml("features: {preset: matchboxnet, hop_ms: 20}")
    assert from_file.features == config.features
    assert from_yaml(to_yaml(config)) == config
    file = written(tmp_path, "features: {mels: 20}")
    assert parse(["--config", file, "--features.preset", "matchboxnet"]).features.mels == 64


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"--features\.preset 'matchbox' is none of bcresnet, matchboxnet"):
        parse(["--features.preset", "matchbox"])


def test_weights_of_words_in_a_file_and_on_the_command_line_add_up(tmp_path: Path) -> None:
    file = written(tmp_path, "data: {weights: {no: 2, yes: 3}, max_share: {_unknown_: 0.1}}")
    config = parse(["--config", file, "--data.weights", "yes", "4", "_silence_", "0.5"])
    assert config.data.weights == {"no": 2, "yes": 4, "_silence_": 0.5}
    assert config.data.max_share == {"_unknown_": 0.1}
    assert from_yaml(to_yaml(config)).data == config.data
