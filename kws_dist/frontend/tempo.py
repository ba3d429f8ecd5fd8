"""Tempo: the word is spoken faster or slower, at the same pitch."""

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import Purpose, changed, where_it_happens
from kws_dist.frontend.speed import Pad, block_starts, cut_padded

_STEP_SAMPLES = 512
_OVERLAP_SAMPLES = 128
_CANDIDATES = 240
_LANES = 16
_LOUDEST = 127.0


class Tempo(nn.Module):
    """Change the tempo of each clip to a whole percentage, uniform on {100 - max, ..., 100 + max}; the pitch stays.

    Waveform-similarity overlap-add (Verhelst and Roelands, "An overlap-add technique based on waveform similarity
    (WSOLA) for high quality time-scale modification of speech", ICASSP 1993): stretches of 32 ms are taken from where
    the tempo wants them, or up to 7.5 ms from there, where they are most like what followed the stretch before, and
    joined over 8 ms; the lengths are those of SoundTouch for speech. Within 15 % voices stay natural; a plosive can be
    heard twice or not at all.

    Likeness is the normalised correlation of samples rounded to 8 bits of the clip's peak: products of those have exact
    sums in float32.
    """

    fade_in: Tensor

    def __init__(self, *, seed: int, max_percent: int, probability: float, pad: Pad = "end") -> None:
        """`max_percent` below 100. `pad`: what becomes shorter or longer is filled up or cropped here, as clips are."""
        super().__init__()
        self.seed, self.max_percent, self.probability = seed, max_percent, probability
        self.pad: Pad = pad
        self.register_buffer("fade_in", (torch.arange(_OVERLAP_SAMPLES) + 0.5) / _OVERLAP_SAMPLES, persistent=False)

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Change the tempo of `wave` `(B, T)` by amounts keyed by `draws` `(B,)`; same shape."""
        if self.max_percent == 0 or self.probability == 0:
            return wave
        happens, percent = self._drawn(draws)
        return changed(wave, happens, lambda rows: self._played(wave[rows], percent[rows]))

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the tempo of each draw."""
        happens, percent = self._drawn(draws)
        return {"tempo_percent": where_it_happens(happens, percent)}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        chance, place = keyed.uniforms(self.seed, Purpose.TEMPO, draws, 2).unbind(1)
        percent = 100 - self.max_percent + (place * (2 * self.max_percent + 1)).long()
        return (chance < self.probability) & (percent != 100), percent

    def _played(self, wave: Tensor, percent: Tensor) -> Tensor:
        wanted = block_starts(percent, wave.shape[1], _STEP_SAMPLES, self.pad)
        first = wanted + _alignment(wave, wanted, self.max_percent)
        stretches = cut_padded(wave, first, _STEP_SAMPLES + _OVERLAP_SAMPLES, self.max_percent)
        joined, tails = stretches[..., :_STEP_SAMPLES], stretches[:, :-1, _STEP_SAMPLES:]
        joined[:, 1:, :_OVERLAP_SAMPLES].mul_(self.fade_in).add_(tails * self.fade_in.flip(0))
        return joined.reshape(len(wave), -1)[:, : wave.shape[1]]


def _alignment(wave: Tensor, wanted: Tensor, max_percent: int) -> Tensor:
    """Return by how much each stretch is moved from where it is `wanted`: `(B, stretches)` int64."""
    peak = wave.abs().amax(dim=1, keepdim=True)
    rounded = (wave * (_LOUDEST / peak.clamp(min=1e-9))).round_()
    furthest = _CANDIDATES // 2
    # All that can be asked for: what is searched through, and what follows a stretch wherever it came from.
    searched = cut_padded(rounded, wanted - furthest, _CANDIDATES + _OVERLAP_SAMPLES, max_percent)
    followed = cut_padded(
        rounded, wanted[:, :-1] - furthest + _STEP_SAMPLES, _CANDIDATES + _OVERLAP_SAMPLES, max_percent
    )
    row = torch.arange(len(wave), device=wave.device)
    windows = followed.unfold(2, _OVERLAP_SAMPLES, 1)
    moved = [torch.zeros_like(row)]
    for stretch in range(1, wanted.shape[1]):
        follows = windows[row, stretch - 1, moved[-1] + furthest]
        moved.append(_most_alike(searched[:, stretch], follows) - furthest)
    return torch.stack(moved, dim=1)


def _most_alike(searched: Tensor, follows: Tensor) -> Tensor:
    """Return the place `(B,)` in `searched` `(B, candidates + overlap)` that is most like `follows` `(B, overlap)`."""
    # Sixteen neighbouring candidates share a window, of which each has its own stretch: a sixteenth of the copies.
    shared = searched.unfold(1, _OVERLAP_SAMPLES + _LANES, _LANES)
    padded = nn.functional.pad(follows, (_LANES, _LANES))
    lanes = padded.unfold(1, _OVERLAP_SAMPLES + _LANES, 1)[:, 1:].flip(1)
    alike = torch.bmm(shared, lanes.transpose(1, 2)).flatten(1)
    energy = nn.functional.pad(searched.square().cumsum(1), (1, 0))
    energy = (energy[:, _OVERLAP_SAMPLES:] - energy[:, :-_OVERLAP_SAMPLES])[:, :_CANDIDATES]
    score = alike / energy.clamp(min=1.0).sqrt()
    best = score.amax(dim=1, keepdim=True)
    # Of equally good places the first: `argmax` may return any.
    return torch.where(score == best, torch.arange(_CANDIDATES, device=score.device), _CANDIDATES).amin(dim=1)
