"""How fast waveforms become features, against torchaudio and the Fourier transform alone; `tools/bench.py features`."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kws_dist.frontend._torchaudio import transforms
from kws_dist.frontend.feature_settings import FeatureSettings
from kws_dist.frontend.features import Features

_CLIP_SAMPLES = 16_000
_CPU_CLIPS, _GPU_CLIPS = 256, 2048
_GPU_REPEATS = 10
"""A GPU is done with a batch in about a millisecond: too little to time by itself."""

FEATURES: dict[str, dict[str, Any]] = {
    "log-mel": {},
    "log-mel by DFT": {"spectrum": "dft"},
    "MFCC": {"kind": "mfcc"},
    "spectrogram": {"kind": "spectrogram"},
    "waveform at 8 kHz": {"kind": "waveform", "resample_hz": 8_000},
}
EACH, AT_ONCE, TRANSFORM = "torchaudio, clip by clip", "torchaudio, all at once", "FFT alone"
_HEADINGS = {EACH: "to clip by clip", AT_ONCE: "to all at once", TRANSFORM: "to FFT"}


def bench_features(*, device: torch.device, clips: int | None = None, rounds: int = 5) -> dict[str, Any]:
    """Time every kind of features of so many 1-second clips, 256 by default and 2,048 on a GPU, in turns.

    `torchaudio` is its log-mel spectrogram, with the settings of the one here; `FFT alone` is `torch.fft.rfft` of as
    many frames, which are there, windowed and as near as can be (on a CPU in the cache).

    Memory that is freed goes back to the system, as it does in any Python process but those of this package's training
    (see `process.keep_freed_memory`): what needs a lot at once, as torchaudio on a whole batch does, is slower for it.
    """
    clips = clips or (_GPU_CLIPS if device.type == "cuda" else _CPU_CLIPS)
    wave = (torch.randn(clips, _CLIP_SAMPLES, generator=torch.Generator().manual_seed(0)) * 0.1).to(device)
    with torch.no_grad():
        ways = _ways(wave)
        turns = [{name: _clips_per_s(run, wave) for name, run in ways.items()} for _ in range(1 + rounds)][1:]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clips": clips,
        "rounds": rounds,
        "clips_per_s": {name: statistics.median(turn[name] for turn in turns) for name in ways},
        "to": {
            other: {name: statistics.median(turn[name] / turn[other] for turn in turns) for name in ways}
            for other in (EACH, AT_ONCE, TRANSFORM)
        },
    }


def _ways(wave: Tensor) -> dict[str, Callable[[], object]]:
    ways: dict[str, Callable[[], object]] = {}
    for name, settings in FEATURES.items():
        features = Features(FeatureSettings(**settings)).to(wave.device)
        ways[name] = lambda features=features: features(wave)
    log_mel = _torchaudios_log_mel(wave.device)
    ways[EACH] = lambda: [log_mel(clip) for clip in wave]
    ways[AT_ONCE] = lambda: log_mel(wave)
    ways[TRANSFORM] = _transform_alone(wave)
    return ways


def _torchaudios_log_mel(device: torch.device) -> Callable[[Tensor], Tensor]:
    mel = transforms.MelSpectrogram(16_000, n_fft=512, win_length=480, hop_length=160, f_max=8_000.0, n_mels=40)
    mel = mel.to(device)
    return lambda wave: torch.log(mel(wave) + 1e-6)


def _transform_alone(wave: Tensor) -> Callable[[], object]:
    """Return what transforms as many frames as the log-mel does, as many at a time."""
    clips, samples = wave.shape
    at_once = min(Features(FeatureSettings()).cpu_chunk_clips(samples), clips) if wave.device.type == "cpu" else clips
    frames = torch.randn(at_once, 101, 512, device=wave.device)

    def run() -> None:
        for first in range(0, clips, at_once):
            torch.fft.rfft(frames[: clips - first])

    return run


def _clips_per_s(run: Callable[[], object], wave: Tensor) -> float:
    run()  # so that it finds in the caches what it left there, not what the one before it did
    if wave.device.type != "cuda":
        started_s = time.perf_counter()
        run()
        return len(wave) / (time.perf_counter() - started_s)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(wave.device)
    begin.record()
    for _ in range(_GPU_REPEATS):
        run()
    end.record()
    end.synchronize()
    return _GPU_REPEATS * len(wave) / (begin.elapsed_time(end) / 1000)


def show(result: dict[str, Any]) -> None:
    """Print the figures of `bench_features` as a table."""
    where = f"{result['device']}, {result['threads']} threads" if result["device"] == "cpu" else result["device"]
    table = Table(title=f"features of {result['clips']:,} clips of one second on {where}")
    table.add_column("", no_wrap=True)
    table.add_column("clips/s", justify="right")
    for other in result["to"]:
        table.add_column(_HEADINGS[other], justify="right")
    for name, speed in result["clips_per_s"].items():
        table.add_row(name, f"{speed:,.0f}", *(f"{ratios[name]:.2f}" for ratios in result["to"].values()))
    Console().print(table)
