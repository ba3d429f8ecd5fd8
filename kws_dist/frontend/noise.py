"""Noise: recordings of it added at an amplitude or at a signal-to-noise ratio, white noise, and drawn silence."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import (
    PCM_SCALE,
    Purpose,
    Rows,
    changed,
    cut,
    decibels,
    spread_of_decibels,
    to_pcm_scale,
    where_it_happens,
)

_WHITE_SAMPLES = 1 << 20
_WHITE_STEP = 128
_WHITE_RMS = _WHITE_STEP * 1023**0.5  # of a sum of twelve numbers from {0, ..., 31}
_LEVEL_FRAME_SAMPLES = 320
_LOUDEST_TO_FAINTEST = 256.0


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

    def places(self, which: Tensor, place: Tensor) -> Tensor:
        """Return where stretches begin in `bank`; `which` and `place` `(B,)` in [0, 1): recordings equally likely."""
        recording = (which * len(self)).long()
        # In double, because a float32 cannot name every sample of a recording of several minutes.
        offset = (place.double() * self.choices[recording]).long()
        return self.first[recording] + offset

    def stretches(self, which: Tensor, place: Tensor) -> Tensor:
        """Return the int16 `(B, clip_samples)` that begin at `places(which, place)`."""
        return cut(self.bank, self.places(which, place), self.clip_samples)


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
        self.has_padding = heard != range(noise.clip_samples)
        place = torch.arange(noise.clip_samples)
        self.register_buffer("heard", (place >= heard.start) & (place < heard.stop), persistent=False)

    def forward(self, wave: Tensor, draws: Tensor, labels: Tensor) -> Tensor:
        """Replace the rows of `wave` `(B, T)` whose label, of `labels` `(B,)`, is that of silence."""
        if len(self.noise) == 0:
            return wave
        which, place, volume = self._drawn(draws)

        def silence(rows: Rows) -> Tensor:
            stretch = self.noise.stretches(which[rows], place[rows])
            if self.has_padding:
                stretch = stretch * self.heard
            return stretch * (volume[rows] / PCM_SCALE)[:, None]

        return changed(wave, labels == self.silence_label, silence)

    def amounts(self, draws: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return how loud the silence of each draw is, if it is silence."""
        happens = (labels == self.silence_label) & (len(self.noise) > 0)
        return {"silence_amplitude": where_it_happens(happens, self._drawn(draws)[2])}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, ...]:
        return keyed.uniforms(self.seed, Purpose.SILENCE, draws, 3).unbind(1)


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
        happens, which, place, loud = self._drawn(draws)
        return _added(wave, self.noise.stretches(which, place), torch.where(happens, loud, 0.0))

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return what the noise of each draw is multiplied by."""
        happens, _, _, loud = self._drawn(draws)
        return {"noise_amplitude": where_it_happens(happens & (len(self.noise) > 0), loud)}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chance, which, place, loud = keyed.uniforms(self.seed, Purpose.NOISE, draws, 4).unbind(1)
        return chance < self.probability, which, place, loud * self.max_amplitude


class NoiseAtSnr(nn.Module):
    """Add a random stretch of a noise recording at a signal-to-noise ratio drawn uniformly in dB.

    The signal is the clip where something is to be heard: the mean square of its 20 ms frames that are at most
    24 dB below the loudest one (as active speech level, ITU-T P.56, leaves pauses out), so that a word in a padded
    or shifted clip is not taken for faint. The noise is the mean square of the stretch. A clip of zeros gets no noise,
    and a stretch of zeros adds none.
    """

    energy_before: Tensor

    def __init__(self, noise: NoiseBank, *, seed: int, min_db: float, max_db: float, probability: float) -> None:
        super().__init__()
        self.noise, self.seed, self.probability = noise, seed, probability
        self.factor = spread_of_decibels(-max_db, -min_db)
        energy = noise.bank.to(torch.int64).square().cumsum(0)
        # The energy of a stretch is then the difference of two of these.
        self.register_buffer("energy_before", nn.functional.pad(energy, (1, 0)), persistent=False)

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Mix noise into `wave` `(B, T)`, clamped to [-1, 1]; recordings are equally likely."""
        if len(self.noise) == 0 or self.probability == 0:
            return wave
        happens, which, place, factor = self._drawn(draws)
        first, length = self.noise.places(which, place), self.noise.clip_samples
        energy = self.energy_before[first + length] - self.energy_before[first]
        ratio = _active_level(wave) / (energy.clamp(min=1).double() / length)
        amplitude = (ratio.sqrt() * factor).to(torch.float32)
        amplitude = torch.where(happens & (energy > 0), amplitude, 0.0)
        return _added(wave, cut(self.noise.bank, first, length), amplitude)

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the signal-to-noise ratio of each draw."""
        happens, _, _, factor = self._drawn(draws)
        return {"noise_snr_db": where_it_happens(happens & (len(self.noise) > 0), -decibels(factor))}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chance, which, place, ratio = keyed.uniforms(self.seed, Purpose.SNR_NOISE, draws, 4).unbind(1)
        return chance < self.probability, which, place, self.factor(ratio)


class WhiteNoise(nn.Module):
    """Add white Gaussian noise whose level (RMS) is drawn uniformly in dB relative to full scale."""

    def __init__(self, *, seed: int, min_db: float, max_db: float, probability: float, clip_samples: int) -> None:
        super().__init__()
        self.seed, self.probability = seed, probability
        self.amplitude = spread_of_decibels(min_db, max_db)
        self.noise = NoiseBank([_white_recording(seed)], clip_samples=clip_samples)

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Mix noise into `wave` `(B, T)`, clamped to [-1, 1]."""
        if self.probability == 0:
            return wave
        happens, place, amplitude = self._drawn(draws)
        stretch = self.noise.stretches(torch.zeros_like(place), place)
        return _added(wave, stretch, torch.where(happens, amplitude * (PCM_SCALE / _WHITE_RMS), 0.0))

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the level of the noise of each draw."""
        happens, _, amplitude = self._drawn(draws)
        return {"white_noise_dbfs": where_it_happens(happens, decibels(amplitude))}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chance, place, loud = keyed.uniforms(self.seed, Purpose.WHITE_NOISE, draws, 3).unbind(1)
        return chance < self.probability, place, self.amplitude(loud)


def _added(wave: Tensor, noise: Tensor, amplitude: Tensor) -> Tensor:
    """Return `wave` `(B, T)` plus int16 `noise` `(B, T)` times `amplitude` `(B,)`, clamped to [-1, 1]."""
    return (noise * (amplitude / PCM_SCALE)[:, None]).add_(wave).clamp_(-1.0, 1.0)


def _active_level(wave: Tensor) -> Tensor:
    """Return the mean square `(B,)` float64 of the active frames of `wave` `(B, T)`, in squared units of 16-bit PCM."""
    frames = max(wave.shape[1] // _LEVEL_FRAME_SAMPLES, 1)
    frame_samples = wave.shape[1] // frames
    energy = to_pcm_scale(wave[:, : frames * frame_samples]).square_().view(len(wave), frames, -1).sum(dim=2)
    active = energy * _LOUDEST_TO_FAINTEST >= energy.amax(dim=1, keepdim=True)
    return (energy * active).sum(dim=1) / (active.sum(dim=1) * frame_samples)


def _white_recording(seed: int) -> Tensor:
    """Return int16 `(samples,)`, 65 s at 16 kHz: each a sum of twelve numbers of 5 bits, nearly Gaussian, exact."""
    bits = keyed.mixed_with(keyed.fold(seed, Purpose.WHITE_NOISE, 1), torch.arange(_WHITE_SAMPLES))
    total = torch.stack([(bits >> shift) & 31 for shift in range(0, 60, 5)]).sum(dim=0)
    return ((total - 186) * _WHITE_STEP).to(torch.int16)  # 186 is the mean
