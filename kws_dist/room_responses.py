"""Room impulse responses, read from a folder of recordings."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from kws_dist.corpus.audio import SUFFIXES
from kws_dist.corpus.resample import resample
from kws_dist.errors import DataError, UsageError

FLAG = "--augment.reverb_folder"


def read_responses(folder: Path, *, sample_rate_hz: int, most_samples: int) -> list[Tensor]:
    """Return the responses in a folder and its folders, in the order of their names: float64 `(samples,)` each.

    Every channel is a response. They are resampled to `sample_rate_hz`, and what comes later than `most_samples`
    after the loudest sample is left out: in a clip of that length it is not heard. Raises `UsageError` if the folder
    holds no recording, `DataError` naming the file that cannot be used.
    """
    if not folder.is_dir():
        raise UsageError(f"{FLAG} {folder}: there is no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UsageError(
            f"{FLAG} {folder}: it holds no recording; WAV and FLAC are read, and what else libsndfile reads"
        )
    return [response for path in paths for response in _responses_in(path, sample_rate_hz, most_samples)]


def _responses_in(path: Path, sample_rate_hz: int, most_samples: int) -> list[Tensor]:
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz, channels = (
                file.samplerate,
                file.read(dtype="float64", always_2d=True).astype(np.float64, copy=False),
            )
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as a room response; take it out of {FLAG}") from error
    responses = []
    for channel in channels.T:
        if not np.isfinite(channel).all() or not channel.any():
            raise DataError(f"{path}: it is silent or holds samples that are not numbers; take it out of {FLAG}")
        response = channel if rate_hz == sample_rate_hz else resample(channel, rate_hz, sample_rate_hz)
        last = int(np.abs(response).argmax()) + most_samples
        responses.append(torch.from_numpy(response[:last].copy()))
    return responses
