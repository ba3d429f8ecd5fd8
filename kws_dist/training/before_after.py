"""What a model says of words that it knew before it learnt others, clip by clip, beside what it said then."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from kws_dist.config import Config
from kws_dist.corpus.clip import SAMPLE_RATE_HZ
from kws_dist.data.clip_reader import ClipPolicy, select
from kws_dist.data.store import open_store
from kws_dist.errors import UsageError
from kws_dist.shards.read import Dataset, Rows
from kws_dist.training.data import match_labels
from kws_dist.training.rebuild import Rebuilt

Ints = NDArray[np.int64]

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What the models before and after say of the held-out clips; words are numbered as in `words`."""

    words: tuple[str, ...]
    old_words: int
    """The first so many words are the old ones."""
    split: str
    """Which clips of the old words."""
    label: Ints
    """`(clips,)` true words of the held-out clips of old words."""
    before: Ints
    after: Ints
    new_label: Ints
    """`(new clips,)` true words of the held-out recordings of new words."""
    new_after: Ints


def hear(before: Rebuilt, after: Rebuilt, dataset: Dataset, accelerator: Accelerator) -> Heard:
    """Ask both models about the held-out clips; `after` knows the words of `before`, in that order, and then others.

    The old words are tested on the test split, on the validation split only where there is none.
    """
    split = next((one for one in ("test", "val") if held_out(dataset, one, before.words)), "")
    if not split:
        raise UsageError(f"{dataset.root} has no held-out clips of the old words, so nothing can be said of them")
    assert after.words[: len(before.words)] == before.words, "new words come behind the old ones"
    old_clips, new_clips = (
        _clips(dataset, *which) for which in ((split, before.words, True), ("test", before.words, False))
    )
    label, said_before = answers(before, dataset, old_clips, accelerator)
    _, said_after = answers(after, dataset, old_clips, accelerator)
    new_label, new_after = answers(after, dataset, new_clips, accelerator)
    return Heard(
        words=after.words,
        old_words=len(before.words),
        split=split,
        label=label,
        before=said_before,
        after=said_after,
        new_label=new_label,
        new_after=new_after,
    )


@torch.inference_mode()
def answers(trained: Rebuilt, dataset: Dataset, rows: Rows, accelerator: Accelerator) -> tuple[Ints, Ints]:
    """Return the words `(clips,)` of the rows, and those that the model takes them for `(clips,)`, as it numbers them.

    Damaged clips are left out if the run did so.
    """
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    device = accelerator.device
    rows = replace(rows, label=match_labels(rows.label, dataset.words, trained.words))
    store = open_store(rows, clip_policy(trained.config), residency="auto", device=device)
    model, front_end = trained.model.to(device).eval(), trained.front_end.to(device).eval()
    said: list[Ints] = []
    for first in range(0, len(store.rows), _BATCH):
        clips = np.arange(first, min(first + _BATCH, len(store.rows)))
        pcm = store.gather(torch.from_numpy(clips).to(device) if store.on_device else clips)
        nothing = torch.zeros(len(pcm), dtype=torch.int64, device=device)  # nothing is drawn without augmentation
        with accelerator.autocast():
            logits = model(front_end(pcm, nothing, nothing))
        said.append(logits.argmax(1).cpu().numpy())
    return store.rows.label, np.concatenate(said)


def clip_policy(config: Config) -> ClipPolicy:
    """Return how the clips of shards are made as long as a run expects them."""
    data = config.data
    samples = round(data.clip_seconds * SAMPLE_RATE_HZ)
    return ClipPolicy(clip_samples=samples, pad=data.pad, long=data.long, on_bad_clip=data.on_bad_clip)


def held_out(dataset: Dataset, split: str, words: Sequence[str]) -> int:
    """Return how many clips of these words a split has; 0 if it does not exist."""
    return sum(dataset.meta["clips_per_word"].get(split, {}).get(word, 0) for word in words)


def _clips(dataset: Dataset, split: str, words: Sequence[str], of_these: bool) -> Rows:
    """Return the clips of these words in a split, or all of the others."""
    rows = dataset.rows(split if split in dataset.splits else dataset.splits[0])
    labels = [number for number, word in enumerate(dataset.words) if (word in words) == of_these]
    return select(rows, np.flatnonzero(np.isin(rows.label, labels) & (split in dataset.splits)))
