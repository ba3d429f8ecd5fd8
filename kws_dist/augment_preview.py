"""What becomes of some draws of a training: the clips before and after augmentation, and what was done to each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kws_dist.data.sampler import Sampler
from kws_dist.data.store import Store
from kws_dist.frontend.chance import pcm_to_wave
from kws_dist.frontend.pipeline import FrontEnd

Floats = NDArray[np.float32]

_LOOKED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One draw as a model hears it."""

    draw: int
    key: str
    word: str
    partner: tuple[str, str, float] | None
    """Key and word of the clip that is mixed in, and its share of the label; None where nothing is."""
    clean: Floats
    """The clip as it is, `(samples,)` in [-1, 1]."""
    wave: Floats
    """The clip as it is heard."""
    clean_features: Floats
    """`(bins, frames)` of `clean`."""
    features: Floats
    """What the model gets."""
    amounts: dict[str, list[float]]
    """What was done, by name with its unit; nothing that was not done."""


def find_draws(
    sampler: Sampler, labels: NDArray[np.int64], *, count: int, first: int = 0, label: int | None = None
) -> list[int]:
    """Return the next `count` draw numbers from `first` on: of all words, or of the word with this label.

    Fewer, if an epoch has no more of them.
    """
    found: list[int] = []
    end = first + max(len(labels), _LOOKED_AT_ONCE)
    for start in range(first, end, _LOOKED_AT_ONCE):
        drawn = sampler.draws(np.arange(start, start + _LOOKED_AT_ONCE))
        wanted = (drawn.weight > 0) & (label is None or labels[drawn.clip] == label)
        found += drawn.t[wanted].tolist()
        if len(found) >= count:
            break
    return found[:count]


@torch.no_grad()
def listen(draw: int, store: Store, sampler: Sampler, front_end: FrontEnd, words: Sequence[str]) -> Heard:
    """Return what a model hears of a draw; store, sampler and front end are those of a training, on the CPU."""
    number = np.array([draw])
    draws, (key, word, pcm, labels) = torch.from_numpy(number), _clip(store, sampler.draws(number).clip, words)
    partner, partners = None, list[Tensor]()
    if front_end.mix is not None:
        partner_key, partner_word, *partners = _clip(store, sampler.partners(number), words)
        share = float(front_end.mix.shares(draws)[0])
        partner = (partner_key, partner_word, share) if share else None
    clean = pcm_to_wave(pcm)
    done = front_end.amounts(draws, labels, *partners[1:])
    return Heard(
        draw=draw,
        key=key,
        word=word,
        partner=partner,
        clean=clean[0].numpy(),
        wave=front_end.waveforms(pcm, draws, labels, *partners)[0].numpy(),
        clean_features=front_end.features(clean)[0, 0].numpy(),
        features=front_end(pcm, draws, labels, *partners)[0, 0].numpy(),
        amounts={name: amount.flatten().tolist() for name, amount in done.items() if not amount.isnan().all()},
    )


def _clip(store: Store, clip: NDArray[np.int64], words: Sequence[str]) -> tuple[str, str, Tensor, Tensor]:
    """Return key, word, PCM `(1, samples)` and label `(1,)` of a clip."""
    label = torch.from_numpy(store.rows.label[clip])
    return store.rows.keys[int(clip[0])], words[int(label)], store.gather(clip), label
