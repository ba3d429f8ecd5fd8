"""A trained run as the teacher of another (`--train.teacher RUN`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kws_dist.config import Config
from kws_dist.errors import UsageError
from kws_dist.training.checkpoint import weights_digest
from kws_dist.training.losses import Teacher
from kws_dist.training.rebuild import checkpoint_of, rebuild, unfinished


@dataclass(frozen=True)
class Lesson:
    """A teacher, and how it hears."""

    teacher: Teacher
    features: nn.Module
    """Waveforms `(B, T)` to the teacher's own features."""
    digest: str
    """Of its weights: a run goes on with the teacher that it began with, wherever that lies now."""
    note: str
    """What to say of a teacher that is not trained to its end; else empty."""


def open_teacher(config: Config, words: Sequence[str], sample_rate_hz: int) -> Lesson:
    """Rebuild the model of `config.train.teacher`. `UsageError` where it cannot teach these words or clips."""
    train = config.train
    trained = rebuild(Path(train.teacher), flag="--train.teacher")
    unknown = [word for word in words if word not in trained.words]
    if unknown:
        raise UsageError(f"--train.teacher {train.teacher} does not know {', '.join(unknown)}: it was trained without")
    theirs = (trained.config.data.clip_seconds, trained.state["sample_rate_hz"])
    ours = (config.data.clip_seconds, sample_rate_hz)
    if theirs != ours:
        raise UsageError(
            f"--train.teacher {train.teacher} hears clips of {theirs[0]:g} s at {theirs[1]} Hz, and this run's are of"
            f" {ours[0]:g} s at {ours[1]} Hz: they should be the same"
        )
    teacher = Teacher(
        trained.model,
        torch.tensor([trained.words.index(word) for word in words]),
        weight=train.teacher_weight,
        temperature=train.teacher_temperature,
        hard=train.teacher_labels == "hard",
    )
    digest = weights_digest(checkpoint_of(Path(train.teacher), flag="--train.teacher"))
    return Lesson(teacher, trained.front_end.features, digest, unfinished(Path(train.teacher)))
