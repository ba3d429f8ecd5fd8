"""The stages of the way from raw PCM to augmented features, for `pipeline_bench.py`: what each one does at the least.

Clips are made up. The front end is that of BC-ResNet-6: log-mel with all of its augmentation (Kim et al., 2021,
arXiv 2106.04140, section 4.1 and its published code).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from torch import Tensor

from kws_dist.data.drawn import AT_ONCE_CPU, AT_ONCE_GPU
from kws_dist.data.sampler import ClassBalancedDistributedSampler
from kws_dist.frontend.chance import pcm_to_wave
from kws_dist.frontend.features import LogMel
from kws_dist.frontend.masks import SpecAugment
from kws_dist.frontend.noise import BackgroundNoise, NoiseBank
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.frontend.shift import TimeShift
from kws_dist.shards.read import Rows

BATCHES = 4
"""How many batches a stage is run on in turns: the input of a single one would still be in the cache."""

_SEED, _CLASSES, _LOUDEST = 0, 35, 8_000
_SAMPLES, _FFT, _BINS, _MELS, _FRAMES = 16_000, 512, 257, 40, 101
_PCM, _WAVE, _FEATURES = 2 * _SAMPLES, 4 * _SAMPLES, 4 * _MELS * _FRAMES  # bytes of a clip


@dataclass(frozen=True)
class Stage:
    """One part of the way, and the least that it has to do for a clip."""

    name: str
    run: Callable[[int], object]
    """Does it for one of the `BATCHES`."""
    clips: int
    """How many clips that is."""
    bytes_per_clip: float
    """Every input read once and every output written once, in the form in which the next stage takes it."""
    flops_per_clip: float
    """Floating-point operations of the plain method; integers and comparisons are not counted."""


class SyntheticStore:
    """Made-up clips in device memory, of as many words as Speech Commands has."""

    on_device = True

    def __init__(self, clips: int, device: torch.device) -> None:
        self.rows, self.skipped_keys = _rows(clips), list[str]()
        self._pcm = _noise_pcm(clips, _SAMPLES, device)

    def at_step(self, step: int) -> None:
        """Do nothing: every clip is there at any time."""

    def gather(self, clip: "np.ndarray | Tensor") -> Tensor:
        """Return the int16 PCM `(B, 16000)` of the clips `(B,)`."""
        return self._pcm.index_select(0, torch.as_tensor(clip))


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """All that is between a draw number and its features."""

    device: torch.device
    batch: int
    store: SyntheticStore
    sampler: ClassBalancedDistributedSampler
    shift: TimeShift
    noise: BackgroundNoise
    features: LogMel
    masks: SpecAugment

    @staticmethod
    def build(device: torch.device, clips: int, batch: int) -> "Pipeline":
        """Put so many made-up clips, and six minutes of noise, into the memory of the device."""
        store = SyntheticStore(clips, device)
        recordings = list(_noise_pcm(6, 60 * _SAMPLES, torch.device("cpu")))
        bank = NoiseBank(recordings, clip_samples=_SAMPLES)
        masks = SpecAugment(seed=_SEED, time_masks=2, max_time_frames=20, frequency_masks=2, max_frequency_bins=7)
        return Pipeline(
            device=device,
            batch=batch,
            store=store,
            sampler=ClassBalancedDistributedSampler(store.rows.label, seed=_SEED, global_batch=batch),
            shift=TimeShift(seed=_SEED, max_samples=1_600, probability=0.8),
            noise=BackgroundNoise(bank, seed=_SEED, max_amplitude=0.1, probability=0.8).to(device),
            features=LogMel(fft_samples=_FFT, mels=_MELS).to(device),
            masks=masks,
        )

    @property
    def front_end(self) -> FrontEnd:
        """Return the same as the worker takes it."""
        return FrontEnd(self.features, wave_augment=(self.shift, self.noise), feature_augment=(self.masks,))

    @property
    def drawn_at_once(self) -> int:
        """Return how many draws the worker makes at a time."""
        return AT_ONCE_GPU if self.device.type == "cuda" else AT_ONCE_CPU

    def stages(self) -> list[Stage]:
        """Return the stages in their order, each with what the one before has made of the first `BATCHES`."""
        first_draws = [self.drawn_at_once * i for i in range(BATCHES)]
        many = [self._numbers(first, self.drawn_at_once) for first in first_draws]
        draws = [torch.arange(self.batch, device=self.device) + i * self.batch for i in range(BATCHES)]
        clip = [self.sampler.draws(some).clip for some in draws]
        pcm = [self.store.gather(some) for some in clip]
        wave = [pcm_to_wave(self.shift(*some)) for some in zip(pcm, draws, strict=True)]
        noisy = [self.noise(*some) for some in zip(wave, draws, strict=True)]
        features = [self.features(some) for some in noisy]
        return [
            # A draw number in; the number of a clip and a weight out.
            Stage("draws", lambda i: self.sampler.draws(many[i]), self.drawn_at_once, 8 + 8 + 4, 0),
            Stage("gather", lambda i: self.store.gather(clip[i]), self.batch, 2 * _PCM, 0),
            Stage(
                "shift, decode", lambda i: pcm_to_wave(self.shift(pcm[i], draws[i])), self.batch, _PCM + _WAVE, _SAMPLES
            ),
            # A sample of noise, scaled and added.
            Stage("noise", lambda i: self.noise(wave[i], draws[i]), self.batch, _PCM + 2 * _WAVE, 2 * _SAMPLES),
            Stage("log-mel", lambda i: self.features(noisy[i]), self.batch, _WAVE + _FEATURES, _log_mel_flops()),
            # The mean of a clip, which the masks are filled with.
            Stage(
                "SpecAugment", lambda i: self.masks(features[i], draws[i]), self.batch, 2 * _FEATURES, _MELS * _FRAMES
            ),
            Stage("cast to bf16", lambda i: features[i].to(torch.bfloat16), self.batch, 1.5 * _FEATURES, 0),
        ]

    def _numbers(self, first: int, count: int) -> "np.ndarray | Tensor":
        """Return draw numbers as the worker hands them to the sampler."""
        if self.device.type == "cuda":
            return torch.arange(first, first + count, device=self.device)
        return np.arange(first, first + count)


def _log_mel_flops() -> float:
    """Count those of a clip: window, real FFT (2.5 N log2 N), power, mel bands as a full matrix, logarithm."""
    return _FRAMES * (_FFT + 2.5 * _FFT * log2(_FFT) + 3 * _BINS + 2 * _BINS * _MELS + 2 * _MELS)


def _noise_pcm(clips: int, samples: int, device: torch.device) -> Tensor:
    source = torch.Generator(device).manual_seed(_SEED)
    pcm = torch.empty(clips, samples, dtype=torch.int16, device=device)
    return pcm.random_(-_LOUDEST, _LOUDEST, generator=source)


def _rows(clips: int) -> Rows:
    """Return the index of clips that are in no shard."""
    nothing = np.zeros(clips, np.int64)
    return Rows(
        keys=[str(clip) for clip in range(clips)],
        label=np.arange(clips) % _CLASSES,
        speaker=[""] * clips,
        shard=nothing.astype(np.int32),
        record_offset=nothing,
        record_bytes=nothing,
        audio_offset=nothing,
        audio_bytes=nothing,
        n_samples=nothing + _SAMPLES,
        checksum=nothing.astype(np.uint64),
        record_checksum=nothing.astype(np.uint64),
        shard_paths=[],
        codec="wav",
    )
