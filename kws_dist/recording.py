"""What anyone recorded, as a trained model hears it: mono, 16-bit and of its rate, by the shard maker's own code."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from math import ceil, gcd
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from kws_dist.corpus.audio import (
    LOUDEST,
    SUFFIXES,
    UNREADABLE_SUFFIXES,
    Sound,
    audio_form,
    decode,
    mixed,
    opened,
    to_pcm,
)
from kws_dist.corpus.clip import SAMPLE_RATE_HZ, Samples
from kws_dist.corpus.look_through import suffix_of
from kws_dist.corpus.resample import resample
from kws_dist.data.clip_reader import ClipPolicy, fit
from kws_dist.errors import ClipError, UsageError

__all__ = [
    "SAMPLE_RATE_HZ",
    "ClipPolicy",
    "Samples",
    "blocks_of",
    "find",
    "fit",
    "length_s",
    "pcm_blocks",
    "pcm_of",
    "read",
]

_BLOCK_S, _MARGIN_S = 10.0, 0.2  # with margins of 0.1 s on, chunks differ from the whole by less than a 16-bit step
_MOST_CHECKED_BYTES = 1 << 26
_SLACK_S = 0.05  # that counting may differ by
_MOST_CHANNELS = 64
_RATES_HZ = range(1_000, 768_001)


def pcm_of(wave: NDArray[np.generic], from_hz: int, to_hz: int) -> Samples:
    """Return a wave, see `mono`, as int16 `(samples,)` at `to_hz`; mono int16 at that rate comes out as it is."""
    wave = mono(wave)
    if wave.size == 0:
        raise UsageError("the wave has no samples")
    return _as_pcm(wave if from_hz == to_hz else resample(_as_float(wave), check_rate(from_hz), to_hz))


def pcm_blocks(blocks: Iterable[NDArray[np.generic]], from_hz: int, to_hz: int) -> Iterator[Samples]:
    """Yield a recording that comes in blocks, each a wave as in `mono`, as int16 blocks at `to_hz`.

    Joined they are what `pcm_of` returns of the whole, to within one step of 16 bits, in memory that does not grow with
    it: pieces of 10 s are resampled with 0.2 s of what is around them.
    """
    waves = (mono(block) for block in blocks)
    if from_hz == to_hz:
        yield from (_as_pcm(wave) for wave in waves)
        return
    common = gcd(check_rate(from_hz), to_hz)
    up, down = to_hz // common, from_hz // common
    step = ceil(_BLOCK_S * from_hz / down) * down  # so that every piece begins with a sample of both rates
    margin = ceil(_MARGIN_S * from_hz / down) * down
    held, before = np.empty(0), 0  # of what is held, so much was made already
    for wave in waves:
        held = np.concatenate([held, _as_float(wave)])
        while len(held) >= before + step + margin:
            made = resample(held[: before + step + margin], from_hz, to_hz)
            yield _as_pcm(made[before // down * up : (before + step) // down * up])
            held, before = held[before + step - margin :], margin
    if len(held) > before:
        yield _as_pcm(resample(held, from_hz, to_hz)[before // down * up :])


def mono(wave: NDArray[np.generic]) -> NDArray[np.int16] | NDArray[np.float64]:
    """Return the mean of the channels of `(samples,)` or `(channels, samples)`: int16 if that is what it was, unmixed.

    Raises `UsageError` for another type than int16 and float, another shape, and samples that are not numbers.
    """
    if wave.ndim == 2 and wave.shape[0] > _MOST_CHANNELS:
        raise UsageError(
            f"a wave of shape {wave.shape} has {wave.shape[0]} channels; they come first: pass its transpose"
        )
    if wave.ndim not in (1, 2) or 0 in wave.shape[:-1]:
        raise UsageError(f"a wave is (samples,) or (channels, samples), not of shape {wave.shape}")
    if wave.dtype.kind == "i" and wave.dtype.itemsize == 2:  # of either byte order
        samples = wave.astype(np.int16, copy=False)
        return samples.reshape(-1) if wave.shape[:-1] in ((), (1,)) else _as_float(samples).mean(axis=0)
    if not np.issubdtype(wave.dtype, np.floating):
        raise UsageError(f"a wave is int16, or float in [-1, 1], not {wave.dtype}")
    floats = wave.astype(np.float64)
    if not np.isfinite(floats).all():
        raise UsageError("the wave holds samples that are not numbers")
    peak = np.abs(floats).max(initial=0)
    if peak > LOUDEST:
        raise UsageError(f"the wave goes up to {peak:,.0f}: float samples are in [-1, 1]; divide 16-bit ones by 32768")
    return floats if wave.ndim == 1 else floats.mean(axis=0)


def check_rate(rate_hz: int) -> int:
    """Return a sampling rate that can be resampled; `UsageError` for any other."""
    if rate_hz not in _RATES_HZ:
        raise UsageError(f"{rate_hz} Hz is not a sampling rate; it is from {_RATES_HZ[0]:,} to {_RATES_HZ[-1]:,} Hz")
    return rate_hz


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the files named, and all recordings in the folders named and in theirs, each once, folders sorted.

    Recordings in a form that cannot be read are among them, so that somebody says so. Raises `UsageError` for a path
    that does not exist and a folder without recordings.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_recording(file, path))
            if not inside:
                raise UsageError(f"{path}: no recordings in this folder ({', '.join(SUFFIXES)})")
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[path] = None
        elif path.exists():
            raise UsageError(f"{path}: this is no file but a pipe or a device; write the recording to a file first")
        else:
            raise UsageError(f"{path}: there is no such file or folder")
    return list(found)


def length_s(path: Path) -> float:
    """Return how long a recording lasts, checked as far as the shard maker does; of a large one only the header.

    Raises `ClipError`, which calls the file by its path, if it cannot be read.
    """
    name = str(path)
    if suffix_of(name) in UNREADABLE_SUFFIXES:
        raise ClipError(f"{name}: {suffix_of(name)} files are not read; convert it to .wav first")
    with _named(path), path.open("rb") as file:
        size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise ClipError(f"{name}: the file is empty")
        if size_bytes <= _MOST_CHECKED_BYTES:
            return audio_form(file, size_bytes, name).seconds
        with closing(opened(file, size_bytes, name)) as sound:
            return sound.frames / sound.samplerate


def read(path: Path, promised_s: float) -> Samples:
    """Return a recording as the shards would hold it: 16 kHz mono int16 `(samples,)`.

    Raises `ClipError` as `length_s` does, and if it is shorter than that found.
    """
    with _named(path):
        samples = decode(path.read_bytes(), str(path))
    _check_length(path, len(samples) / SAMPLE_RATE_HZ, promised_s)
    return samples


def blocks_of(path: Path, promised_s: float) -> tuple[Iterator[NDArray[np.float64]], int]:
    """Return a recording in blocks of some seconds, mono `(samples,)`, and its rate in Hz.

    Raises `ClipError`, also in the midst of it, if it cannot be read, or at its end if it is shorter than promised.
    """
    with _named(path), ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        sound = stack.enter_context(closing(opened(file, path.stat().st_size, str(path))))
        return _blocks(sound, path, promised_s, stack.pop_all()), sound.samplerate


def _blocks(sound: Sound, path: Path, promised_s: float, held: ExitStack) -> Iterator[NDArray[np.float64]]:
    done = 0
    with held:
        while done < sound.frames:
            try:
                some = min(round(_BLOCK_S * sound.samplerate), sound.frames - done)
                block = sound.read(some, dtype="float64", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise ClipError(f"{path}: cannot be decoded ({error})") from error
            if len(block) == 0:
                raise ClipError(f"{path}: cut off after {done} of {sound.frames} samples")
            done += len(block)
            yield mixed(block, str(path))
        _check_length(path, done / sound.samplerate, promised_s)


def _check_length(path: Path, read_s: float, promised_s: float) -> None:
    """Raise `ClipError` if less could be read of a recording than it lasts, which nobody else may notice."""
    if read_s < promised_s - _SLACK_S:
        raise ClipError(f"{path}: only {read_s:.2f} of {promised_s:.2f} s can be read; convert it to .wav anew")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClipError(f"{path}: cannot be read ({error.strerror or error})") from error


def _is_recording(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in file.relative_to(folder).parts)
    return not hidden and suffix_of(file.name) in (*SUFFIXES, *UNREADABLE_SUFFIXES) and file.is_file()


def _as_float(wave: NDArray[np.int16] | NDArray[np.float64]) -> NDArray[np.float64]:
    return wave / 32_768.0 if wave.dtype == np.int16 else wave.astype(np.float64, copy=False)


def _as_pcm(wave: NDArray[np.int16] | NDArray[np.float64]) -> Samples:
    return wave.astype(np.int16, copy=False) if wave.dtype == np.int16 else to_pcm(wave.astype(np.float64, copy=False))
