"""Read YAML settings as the words of a command line, so that one typed parser checks a file and a command line."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from kws_dist.errors import UsageError

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_PYTHON = {"true": "True", "false": "False", ".inf": "inf", "-.inf": "-inf", ".nan": "nan"}
"""How Python spells what YAML spells so."""


def read_settings(text: str, *, name: str, defaults: Mapping[str, Any]) -> list[str]:
    """Return the command line that says the same as the YAML `text`; `name` says in errors where it is from.

    `defaults` holds every setting as `{"train.epochs": 30}`, for what only its type can tell. A name that is not
    among them is passed on, for the parser to say what was probably meant.
    """
    content = read_yaml(text, name=name)
    if not isinstance(content, dict):
        raise UsageError(f"{name} should hold lines such as `train: {{epochs: 30}}`, not a {type(content).__name__}")
    try:
        return list(setting_words(content, defaults))
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def read_yaml(text: str, *, name: str) -> Any:
    """Return what a YAML text holds: dicts, lists and strings; an empty dict if it holds nothing.

    `UsageError`, which calls it `name`, if it is no YAML or says something twice.
    """
    try:
        # BaseLoader: every scalar stays a string. Plain YAML would read the word "no" as False and 1e-3 as text.
        content = yaml.load(text, Loader=yaml.BaseLoader) or {}
        _refuse_repeated(yaml.compose(text, Loader=yaml.BaseLoader), set())
        return content
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError(f"{name} is nested without end") from None
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _refuse_repeated(node: yaml.Node | None, met: set[int]) -> None:
    """Raise `ValueError` if a section or a setting is there twice: YAML would drop the first without a word.

    `met`: the lists and sections so far. One that is met again is an alias; a few lines of those can say billions.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    if id(node) in met:
        raise ValueError(f"what line {node.start_mark.line + 1} holds is used again by an alias; write it out")
    met.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated(item, met)
        return
    seen = set()
    for key, value in node.value:
        if key.value in seen:
            raise ValueError(f"{key.value} is there twice, again in line {key.start_mark.line + 1}")
        seen.add(key.value)
        _refuse_repeated(value, met)


def setting_words(settings: dict[str, Any], defaults: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Yield the command line of settings in a section (`"train."`), whose values are strings, lists or dicts of such.

    `ValueError` names the setting whose value is of another kind than its default.
    """
    for name, value in settings.items():
        path = section + name
        default = defaults.get(path)
        if isinstance(value, dict) and isinstance(default, dict):
            pairs = [_number(word, path) for pair in value.items() for word in pair]
            yield from (f"--{path}", *pairs) if pairs else ()
        elif isinstance(value, dict):
            yield from setting_words(value, defaults, f"{path}.")
        elif isinstance(default, dict) or any(known.startswith(f"{path}.") for known in defaults):
            if value != "":  # a section whose lines are all commented out
                raise ValueError(f"{path} should be a section of settings, not {value!r}")
        elif isinstance(default, tuple):
            yield from (f"--{path}", *(_number(word, path) for word in _list(value, path)))
        elif isinstance(default, bool):
            yield f"--{path}" if _truth(value, path) else f"--{section}no_{name}"
        else:
            word = _number(value, path) if isinstance(default, float) else _scalar(value, path)
            yield from (f"--{path}={word}",) if word.startswith("-") else (f"--{path}", word)


def _scalar(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path} should be one value, not a {type(value).__name__}")
    return value


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{path} should be a list such as [a, b], not {value!r}")
    return value


def _number(value: Any, path: str) -> str:
    word = _scalar(value, path)
    return _PYTHON.get(word, word)


def _truth(value: Any, path: str) -> bool:
    word = _scalar(value, path).lower()
    if word not in _TRUTH:
        raise ValueError(f"{path} should be true or false, not {value!r}")
    return _TRUTH[word]
