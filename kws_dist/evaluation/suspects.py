"""The clips whose label a trained model believes least: where a recording was mislabelled, these hold it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from kws_dist.data.batch_slice import BatchSlice
from kws_dist.data.sampler import ExactlyOnceSampler
from kws_dist.data.store import Store
from kws_dist.data.workers import DeviceWorker
from kws_dist.frontend.pipeline import FrontEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """What a model makes of one clip."""

    key: str
    split: str
    word: str
    """What its label says."""
    heard: str
    """The most probable word."""
    heard_probability: float
    word_probability: float
    loss: float
    """Cross-entropy in nats: minus the logarithm of `word_probability`."""


def suspects(
    stores: Mapping[str, Store],
    model: nn.Module,
    front_end: FrontEnd,
    words: Sequence[str],
    *,
    worst: int,
    device: torch.device,
) -> list[Suspect]:
    """Return the `worst` clips of all splits by their loss, the highest first.

    `stores` are by split, their labels number `words`; model and front end, which augments nothing, are on the device.
    """
    model.eval()
    found = [one for split, store in stores.items() for one in _of_split(split, store, model, front_end, words, device)]
    return sorted(found, key=lambda one: (-one.loss, one.key))[:worst]


@torch.inference_mode()
def _of_split(
    split: str, store: Store, model: nn.Module, front_end: FrontEnd, words: Sequence[str], device: torch.device
) -> Iterator[Suspect]:
    batch_slice = BatchSlice(global_batch=256, rank=0, world=1)
    sampler = ExactlyOnceSampler(len(store.rows), seed=0, global_batch=batch_slice.global_batch, shuffle=False)
    worker = DeviceWorker(store, sampler, front_end, batch_slice, device)
    for batch in worker.batches(0, sampler.steps_per_epoch):
        logits = model(batch.features).float()
        losses = F.cross_entropy(logits, batch.labels, reduction="none").tolist()
        probabilities, answers = (column.tolist() for column in logits.softmax(1).max(1))
        labels, weights = batch.labels.tolist(), batch.weights.tolist()
        for row, clip in enumerate(batch.draws.clip.tolist()):
            if weights[row]:
                yield Suspect(
                    key=store.rows.keys[clip],
                    split=split,
                    word=words[int(labels[row])],
                    heard=words[int(answers[row])],
                    heard_probability=probabilities[row],
                    word_probability=math.exp(-losses[row]),
                    loss=losses[row],
                )
