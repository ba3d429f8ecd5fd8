"""The espeak-ng speech synthesiser through ctypes: a word and a manner of speaking in, samples out.

espeak-ng keeps state from one call to the next (the phase of the pitch flutter, resonators, gain control) and
offers no way to reset it, so a word would sound a little different depending on what was said before. Here the
library is loaded afresh for every utterance, which makes the sound a pure function of the arguments: the bytes are
the same on every run with the same build of the library, whatever is said in which order.
"""

import _ctypes
import ctypes
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kws_dist.errors import DataError, UsageError

NATIVE_RATE_HZ = 22_050
SLOWEST_WPM, FASTEST_WPM = 80, 450

ACCENTS = {
    "en-gb": "en",
    "en-gb-scotland": "en-GB-scotland",
    "en-gb-x-gbclan": "en-GB-x-gbclan",
    "en-gb-x-gbcwmd": "en-GB-x-gbcwmd",
    "en-gb-x-rp": "en-GB-x-rp",
    "en-us": "en-US",
    "en-us-nyc": "en-US-nyc",
    "en-029": "en-029",
}
"""The accents of English, each with its file in `lang/gmw` of the data folder (Shavian is a script, not one)."""

_SHARED_DATA = ("phontab", "phonindex", "phondata", "intonations", "en_dict", "voices")
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: espeak_Synth returns when all is said, the sound goes to the callback
_DO_NOT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing data as a status, do not end the process
_UTF8 = 1  # espeakCHARS_UTF8
_IPA_JOINED_BY_UNDERLINES = ord("_") << 8 | 2  # phonememode: bits 8 to 23 are the separator, bit 1 asks for IPA
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4  # espeak_PARAMETER
_SUCCESS = 0

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_SYNTH_ARGUMENTS = (
    ctypes.c_char_p,  # text, ending in a zero byte
    ctypes.c_size_t,  # its size in bytes, with the zero
    ctypes.c_uint,  # where to begin
    ctypes.c_int,  # what the beginning is counted in
    ctypes.c_uint,  # where to end, 0 for the end of the text
    ctypes.c_uint,  # flags
    ctypes.c_void_p,  # where to put an identifier, or NULL
    ctypes.c_void_p,  # user data for the callback, or NULL
)

_one_at_a_time = threading.Lock()  # the library is full of globals: one utterance at a time in a process


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How an utterance is spoken."""

    accent: str
    """One of `ACCENTS`."""
    voice: str
    """One of `voices()`."""
    rate_wpm: int = 175
    """Speaking rate in words a minute, `SLOWEST_WPM` to `FASTEST_WPM`."""
    pitch: int = 50
    """Base pitch relative to the voice's own, 0 to 99 for half to double; 50 leaves it."""
    pitch_range: int = 50
    """Liveliness of the intonation, 0 (monotone) to 99; 50 leaves it."""
    breath_seed: int = 0
    """Seed of the breath noise that some voices have, a non-negative 31-bit integer."""


def speak(text: str, manner: Manner) -> NDArray[np.int16]:
    """Say `text`: shape `(samples,)` at `NATIVE_RATE_HZ`, with the silence that espeak-ng puts around it.

    Raises `UsageError` if espeak-ng is not installed, `DataError` if it refuses the voice or the text.
    """
    chunks: list[bytes] = []

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # 1 would stop the synthesis

    callback = _SynthCallback(collect)  # named, so that it outlives the calls below
    with _fresh_library() as library:
        _start(library)
        library.espeak_SetSynthCallback(callback)
        _utter(library, text, manner)
        library.espeak_Terminate()
    return np.frombuffer(b"".join(chunks), np.int16)


def ipa(texts: Sequence[str], accent: str) -> list[str]:
    """Return the pronunciation of each text in IPA, stress marks included, with `_` between phonemes.

    One load of the library serves all texts: how one is pronounced does not depend on those before it.
    Raises `UsageError` if espeak-ng is not installed, `DataError` if it refuses the accent.
    """
    with _fresh_library() as library:
        _start(library)
        if accent not in ACCENTS or library.espeak_SetVoiceByName(accent.encode()) != _SUCCESS:
            raise DataError(f"espeak-ng has no accent {accent!r}")
        pronounced = [_pronounced(library, text) for text in texts]
        library.espeak_Terminate()
    return pronounced


def prepare() -> None:
    """Copy what the library needs, so that processes forked from this one do not each copy it."""
    _english_data()


def version() -> str:
    """Return the version of the espeak-ng library, such as `1.52.0`; `UsageError` if it is not installed."""
    with _fresh_library() as library:
        return library.espeak_Info(None).decode().split()[0]


@cache
def voices() -> frozenset[str]:
    """Return the names of the voice variants in the data folder; `UsageError` if it is not installed."""
    return frozenset(path.name for path in (_installed()[1] / "voices" / "!v").iterdir())


@cache
def _installed() -> tuple[Path, Path]:
    """Return the library file and the data folder."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UsageError(
            "synthesised speech needs espeak-ng, which is not installed: "
            "pip install 'kws_dist[quickstart]' (or: pip install espeakng-loader)"
        ) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


@cache
def _english_data() -> tempfile.TemporaryDirectory[str]:
    """Copy what English needs (1 MB) to a folder that is removed at exit.

    A language file is found at once where espeak-ng looks first, directly in `lang`; the installed folder keeps
    it deeper, and espeak-ng then reads all of its 300 voice files to find it, on every load: three times slower.
    """
    installed = _installed()[1]
    folder = tempfile.TemporaryDirectory(prefix="kws_dist_espeak_")
    for name in _SHARED_DATA:
        copy = shutil.copytree if (installed / name).is_dir() else shutil.copyfile
        copy(installed / name, Path(folder.name) / name)
    (Path(folder.name) / "lang").mkdir()
    for accent, file_name in ACCENTS.items():
        shutil.copyfile(installed / "lang" / "gmw" / file_name, Path(folder.name) / "lang" / accent)
    return folder


@contextmanager
def _fresh_library() -> Iterator[ctypes.CDLL]:
    """Load the library with its globals as new, alone in the process, and unload it at the end."""
    with _one_at_a_time:
        library = ctypes.CDLL(str(_installed()[0]))
        try:
            _declare(library)
            yield library
        finally:
            if sys.platform == "win32":
                _ctypes.FreeLibrary(library._handle)
            else:
                _ctypes.dlclose(library._handle)


def _declare(library: ctypes.CDLL) -> None:
    for name, result, arguments in (
        ("espeak_Initialize", ctypes.c_int, (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)),
        ("espeak_SetSynthCallback", None, (_SynthCallback,)),
        ("espeak_SetVoiceByName", ctypes.c_int, (ctypes.c_char_p,)),
        ("espeak_SetParameter", ctypes.c_int, (ctypes.c_int, ctypes.c_int, ctypes.c_int)),
        ("espeak_ng_SetRandSeed", None, (ctypes.c_long,)),
        ("espeak_Synth", ctypes.c_int, _SYNTH_ARGUMENTS),
        ("espeak_TextToPhonemes", ctypes.c_char_p, (ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int)),
        ("espeak_Terminate", ctypes.c_int, ()),
        ("espeak_Info", ctypes.c_char_p, (ctypes.c_void_p,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def _start(library: ctypes.CDLL) -> None:
    folder = _english_data().name
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, folder.encode(), _DO_NOT_EXIT)
    if rate_hz != NATIVE_RATE_HZ:
        raise DataError(
            f"espeak-ng could not start with the data copied to {folder} (it answered {rate_hz}): "
            "pip install --force-reinstall espeakng-loader"
        )


def _utter(library: ctypes.CDLL, text: str, manner: Manner) -> None:
    name = f"{manner.accent}+{manner.voice}"
    # espeak-ng takes an unknown variant for none at all and speaks with its default voice.
    known = manner.accent in ACCENTS and manner.voice in voices()
    if not known or library.espeak_SetVoiceByName(name.encode()) != _SUCCESS:
        raise DataError(f"espeak-ng has no voice {name!r}")
    library.espeak_SetParameter(_RATE, manner.rate_wpm, 0)
    library.espeak_SetParameter(_PITCH, manner.pitch, 0)
    library.espeak_SetParameter(_PITCH_RANGE, manner.pitch_range, 0)
    library.espeak_ng_SetRandSeed(manner.breath_seed)
    spoken = text.encode()
    status = library.espeak_Synth(spoken, len(spoken) + 1, 0, 0, 0, _UTF8, None, None)
    if status != _SUCCESS:
        raise DataError(f"espeak-ng could not say {text!r} with voice {name!r} (it answered {status})")


def _pronounced(library: ctypes.CDLL, text: str) -> str:
    rest = ctypes.c_char_p(text.encode())
    clauses = []
    while rest.value is not None:  # each call does one clause and moves `rest` behind it, at the end to NULL
        clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA_JOINED_BY_UNDERLINES).decode())
    return "_".join(clauses)
