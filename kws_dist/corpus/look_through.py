"""A look at every recording in a container: how it is stored, or why it cannot be used."""

import posixpath
from collections.abc import Callable
from functools import partial
from shlex import quote
from typing import IO

from kws_dist.corpus.audio import UNREADABLE_SUFFIXES, AudioForm, audio_form
from kws_dist.corpus.container import Container, size_of
from kws_dist.errors import ClipError


def look_through(
    container: Container, is_recording: Callable[[str], bool]
) -> tuple[dict[str, AudioForm], dict[str, str]]:
    """Return the form of every recording that can be read, and what is wrong with every other one."""
    forms: dict[str, AudioForm] = {}
    faults: dict[str, str] = {}

    def examine(name: str, file: IO[bytes]) -> None:
        try:
            forms[name] = audio_form(file, size_of(file), name)
        except ClipError as error:
            faults[name] = str(error).removeprefix(f"{name}: ")

    def look(name: str) -> Callable[[IO[bytes]], None] | None:
        if not is_recording(name):
            return None
        if suffix_of(name) in UNREADABLE_SUFFIXES:
            file = posixpath.basename(name)
            wav = posixpath.splitext(file)[0] + ".wav"
            faults[name] = (
                f"{suffix_of(name)} files are not read; convert it, e.g. ffmpeg -i {quote(file)} {quote(wav)}"
            )
            return None
        return partial(examine, name)

    refused = container.scan(look).refused
    return forms, faults | {name: reason for name, reason in refused.items() if is_recording(name)}


def suffix_of(name: str) -> str:
    """Return the end of a name that says what kind of file it is: `.wav`."""
    return posixpath.splitext(name)[1].lower()
