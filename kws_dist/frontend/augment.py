"""Augmentation as batched tensor code; the randomness of draw t is a pure function of (seed, t).

Nothing here keeps a state or asks for a batch's place in the run, so the same draw sounds the same on any rank,
in any batch, on any device. The ranges default to the recipe of BC-ResNet (arXiv 2106.04140, section 4.1, and
its published code); masking is SpecAugment without time warping (Park et al., 2019, arXiv 1904.08779, 2.).
"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor, nn

from kws_dist import keyed

_FULL_SCALE = 32_768.0


class Purpose(IntEnum):
    """What a random number is for. Numbers are never reused: a new one leaves all other draws as they were."""

    SHIFT = 1
    NOISE = 2
    TIME_MASK = 3
    FREQUENCY_MASK = 4
    SILENCE = 5


def pcm_to_wave(pcm: Tensor) -> Tensor:
    """Scale int16 PCM `(B, T)` to float32 in [-1, 1)."""
    return pcm.to(torch.float32) / _FULL_SCALE


class TimeShift(nn.Module):
    """Move each clip by a whole number of samples in [-max, +max], filling with zeros."""

    def __init__(self, *, seed: int, max_samples: int, probability: float) -> None:
        super().__init__()
        self.seed, self.max_samples, self.probability = seed, max_samples, probability

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Shift `wave` `(B, T)` by amounts keyed by `draws` `(B,)`; same shape."""
        if self.max_samples == 0 or self.probability == 0:
            return wave
        chance, place = keyed.uniforms(self.seed, Purpose.SHIFT, draws, 2).unbind(1)
        # Row i of the window starts at `start`; the middle, max_samples, is "not shifted".
        start = (place * (2 * self.max_samples + 1)).long()
        start = torch.where(chance < self.probability, start, self.max_samples)
        padded = nn.functional.pad(wave, (self.max_samples, self.max_samples))
        rows = torch.arange(len(wave), device=wave.device)
        return padded.unfold(1, wave.shape[1], 1)[rows, start]


class NoiseBank(nn.Module):
    """Noise recordings on the device, from which stretches as long as a clip are cut."""

    bank: Tensor
    first: Tensor
    choices: Tensor

    def __init__(self, recordings: Sequence[Tensor], *, clip_samples: int) -> None:
        """`recordings`: int16 `(samples,)` each; those shorter than a clip are not used."""
        super().__init__()
        self.clip_samples = clip_samples
        usable = [recording for recording in recordings if len(recording) >= clip_samples]
        lengths = torch.tensor([len(recording) for recording in usable], dtype=torch.int64)
        bank = torch.cat(usable) if usable else torch.zeros(0, dtype=torch.int16)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("first", lengths.cumsum(0) - lengths, persistent=False)
        self.register_buffer("choices", lengths - clip_samples + 1, persistent=False)

    def __len__(self) -> int:
        """Return the number of recordings that can be used."""
        return len(self.first)

    def stretches(self, which: Tensor, place: Tensor) -> Tensor:
        """Return int16 `(B, clip_samples)`; `which` and `place` `(B,)` in [0, 1): recordings are equally likely."""
        recording = (which * len(self)).long()
        # In double, because a float32 cannot name every sample of a recording of several minutes.
        offset = (place.double() * self.choices[recording]).long()
        return self.bank.unfold(0, self.clip_samples, 1)[self.first[recording] + offset]


class DrawnSilence(nn.Module):
    """Replace each clip of silence by a random stretch of a noise recording, at an amplitude drawn from U(0, 1).

    So training hears new silence all the time (Warden, arXiv 1804.03209, "silence" of the 12-class task), where
    validation and test have fixed clips. Without noise the clips stay as they are.
    """

    heard: Tensor

    def __init__(self, noise: NoiseBank, *, seed: int, silence_label: int, heard: range) -> None:
        """`heard`: which samples of a clip a stored clip of silence takes up; the others are zeros in both."""
        super().__init__()
        self.noise, self.seed, self.silence_label = noise, seed, silence_label
        place = torch.arange(noise.clip_samples)
        self.register_buffer("heard", (place >= heard.start) & (place < heard.stop), persistent=False)

    def forward(self, wave: Tensor, draws: Tensor, labels: Tensor) -> Tensor:
        """Replace the rows of `wave` `(B, T)` whose label, of `labels` `(B,)`, is that of silence."""
        if len(self.noise) == 0:
            return wave
        which, place, loud = keyed.uniforms(self.seed, Purpose.SILENCE, draws, 3).unbind(1)
        silence = self.noise.stretches(which, place) * self.heard * (loud / _FULL_SCALE)[:, None]
        # For all rows: to pick those of silence, the host would have to wait until it knows how many there are.
        return torch.where((labels == self.silence_label)[:, None], silence, wave)


class BackgroundNoise(nn.Module):
    """Add a random stretch of a noise recording at an amplitude drawn from U(0, max)."""

    def __init__(self, noise: NoiseBank, *, seed: int, max_amplitude: float, probability: float) -> None:
        super().__init__()
        self.noise, self.seed = noise, seed
        self.max_amplitude, self.probability = max_amplitude, probability

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Mix noise into `wave` `(B, T)`, clamped to [-1, 1]; recordings are equally likely."""
        if len(self.noise) == 0 or self.probability == 0 or self.max_amplitude == 0:
            return wave
        chance, which, place, loud = keyed.uniforms(self.seed, Purpose.NOISE, draws, 4).unbind(1)
        amplitude = torch.where(chance < self.probability, loud * self.max_amplitude, 0.0)
        noise = self.noise.stretches(which, place)
        return (wave + noise * (amplitude / _FULL_SCALE)[:, None]).clamp_(-1.0, 1.0)


class SpecAugment(nn.Module):
    """Overwrite random bands of frames and of mels with the clip's mean feature value."""

    def __init__(
        self,
        *,
        seed: int,
        time_masks: int,
        max_time_frames: int,
        frequency_masks: int,
        max_frequency_bins: int,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.bands = ((Purpose.TIME_MASK, -1, time_masks, max_time_frames),
                      (Purpose.FREQUENCY_MASK, -2, frequency_masks, max_frequency_bins))  # fmt: skip

    def forward(self, features: Tensor, draws: Tensor) -> Tensor:
        """Mask `features` `(B, 1, bins, frames)`; widths are uniform on {0, ..., max}."""
        fill = features.mean(dim=(1, 2, 3), keepdim=True)
        for purpose, dim, count, max_width in self.bands:
            if count and max_width:
                mask = self._bands(purpose, draws, features.shape[dim], count, max_width)
                shape = [len(draws), 1, 1, 1]
                shape[dim] = features.shape[dim]
                features = torch.where(mask.view(shape), fill, features)
        return features

    def _bands(self, purpose: int, draws: Tensor, size: int, count: int, max_width: int) -> Tensor:
        """Return `(B, size)` booleans, true inside any of `count` random bands."""
        u_width, u_place = keyed.uniforms(self.seed, purpose, draws, 2 * count).chunk(2, dim=1)
        width = (u_width * (min(max_width, size) + 1)).long()
        start = (u_place * (size - width + 1)).long()
        position = torch.arange(size, device=draws.device)
        inside = (position >= start[..., None]) & (position < (start + width)[..., None])
        return inside.any(dim=1)
