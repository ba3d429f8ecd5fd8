"""Words of a command line as Weights & Biases' agent makes them, said as this program's parser knows them.

The agent gives each setting that it chose as `--name=value`, with the value as Python prints it:
`--train.nesterov=False`, `--train.epochs=2.0`, `--train.step_epochs=[3, 5]`, `--model.params={'tau': 3}`, and a section
of nested parameters as `--train={'epochs': 2}` (wandb.sdk.launch.sweeps.utils.create_sweep_command_args).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kws_dist.errors import UsageError
from kws_dist.settings_file import read_yaml, setting_words


def spelled_out(arguments: Sequence[str], defaults: Mapping[str, Any]) -> Iterator[str]:
    """Yield the arguments, with values behind `=` as the parser takes them; `defaults` as in `read_settings`.

    `UsageError` names the setting whose value cannot be meant, such as a switch that is neither true nor false.
    """
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and equals:
            try:
                yield from _words(name, value, defaults)
            except ValueError as error:
                raise UsageError(f"--{error}") from None
        else:
            yield argument


def _words(name: str, value: Any, defaults: Mapping[str, Any]) -> Iterator[str]:
    default = defaults.get(name)
    of_several = isinstance(default, dict | tuple)
    is_section = any(known.startswith(f"{name}.") for known in defaults)
    if of_several or is_section:
        value = _structure(value)
    if is_section and isinstance(value, dict):
        for key, inner in value.items():
            yield from _words(f"{name}.{key}", inner, defaults)
    elif of_several and isinstance(value, str):
        yield from (f"--{name}", *value.split())
    elif isinstance(value, str) and not isinstance(default, bool):
        yield f"--{name}={_whole(value) if isinstance(default, int) else value}"
    else:
        section, dot, last = name.rpartition(".")
        if isinstance(value, dict):
            value = {key: _whole(inner) for key, inner in value.items()}
        yield from setting_words({last: value}, defaults, section + dot)


def _structure(value: Any) -> Any:
    """Return the list or the pairs that a text holds as Python or JSON writes them, which YAML can read; or itself."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return read_yaml(f"value: {value}", name="value")["value"]
    except UsageError:
        return value  # words, such as the pattern [ab]*


def _whole(word: Any) -> Any:
    """Return a whole number without its decimals: W&B chooses some as 2.0, which no whole number may look like here."""
    try:
        return str(int(number)) if "." in word and (number := float(word)).is_integer() else word
    except (TypeError, ValueError):
        return word
