"""The `Source` behind folders, manifests and aligned speech: clips that are recordings, or parts of recordings."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from kws_dist.corpus.audio import AudioForm, decode, loudest_part
from kws_dist.corpus.clip import NOISE_SPLIT, SAMPLE_RATE_HZ, Clip, Rejected, Samples
from kws_dist.corpus.container import Container
from kws_dist.errors import UsageError

Long = Literal["crop", "window", "error"]
"""What becomes of a recording that is longer than a clip: its loudest part is kept, or it is cut into several clips
that together hold all of it, or it is an error."""
LONG_REMEDY = (
    "pass --long crop to keep its loudest part, --long window to cut it into several clips, or a larger --clip_seconds"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Where the audio of a clip lies."""

    name: str
    """The file in the container."""
    start_s: float = 0.0
    end_s: float | None = None
    """None is the end of the recording."""
    loudest: bool = False
    """Keep only as much as a clip may hold, where it is loudest."""


class Recordings:
    """Clips in a container; a `Source`. What has been decided about them is in `clips` and in where they lie."""

    def __init__(
        self,
        container: Container,
        words: Sequence[str],
        spans: Mapping[Clip, Span],
        *,
        clip_samples: int,
        rejected: Sequence[Rejected],
        about: Mapping[str, Any],
    ) -> None:
        """`about`: what `dataset.json` is to say about the source, beside its path and checksum."""
        self.words = tuple(words)
        self.clips: tuple[Clip, ...] = tuple(sorted(spans, key=lambda clip: clip.key))
        self.rejected: tuple[Rejected, ...] = tuple(sorted(rejected, key=lambda row: (row.name, row.reason)))
        self._container, self._clip_samples = container, clip_samples
        self._span = {clip.key: span for clip, span in spans.items()}
        assert len(self._span) == len(spans), "each key is used once"
        self._noise = frozenset(clip.key for clip in spans if clip.split == NOISE_SPLIT)
        names = sorted({span.name for span in spans.values()})
        self.provenance: dict[str, Any] = {
            "path": container.path.resolve().name,
            **about,
            **container.identity(names),
        }
        self.state = container.state(names)

    def staged(self, keys: Collection[str], folder: Path) -> AbstractContextManager[None]:
        """Make the recordings readable in any order."""
        return self._container.staged(sorted({self._span[key].name for key in keys}), folder)

    def read(self, key: str) -> Samples:
        """Return the samples `(samples,)` of a staged clip: 16 kHz, mono, no longer than a clip may be."""
        span = self._span[key]
        samples = decode(self._container.read(span.name), span.name, start_s=span.start_s, end_s=span.end_s)
        if key in self._noise:
            return samples
        if span.loudest:
            return loudest_part(samples, self._clip_samples)
        return samples[: self._clip_samples]  # a part that is exactly a clip long can be rounded up by a sample


def spans_of(
    name: str, form: AudioForm, clip_seconds: float, long: Long, *, start_s: float = 0.0, end_s: float | None = None
) -> list[Span]:
    """Return the clips that a recording, or the part from `start_s` to `end_s`, is made into.

    With `window` they have equal distances, so that they cover all of it and none is short. Raises `UsageError` for
    one that is too long when `long` is `error`.
    """
    seconds = seconds_of(form, start_s, end_s)
    if round(seconds * SAMPLE_RATE_HZ) <= round(clip_seconds * SAMPLE_RATE_HZ):
        return [Span(name=name, start_s=start_s, end_s=end_s)]
    if long == "error":
        raise UsageError(
            f"--long error: {name} lasts {seconds:.2f} s, longer than a clip of {clip_seconds:g} s; {LONG_REMEDY}"
        )
    if long == "crop":
        return [Span(name=name, start_s=start_s, end_s=end_s, loudest=True)]
    return _evenly(name, start_s, seconds, clip_seconds, ceil(seconds / clip_seconds))


def noise_spans(name: str, form: AudioForm, start_s: float = 0.0, end_s: float | None = None) -> list[Span]:
    """Return where background noise lies: in one span, or in several, end to end, if it is too much to hold at once."""
    seconds = seconds_of(form, start_s, end_s)
    count = ceil(seconds / form.most_seconds)
    if count <= 1:
        return [Span(name=name, start_s=start_s, end_s=end_s)]
    return _evenly(name, start_s, seconds, seconds / count, count)


def seconds_of(form: AudioForm, start_s: float, end_s: float | None) -> float:
    """Return the length of a recording, or of the part from `start_s` to `end_s`."""
    return (form.seconds if end_s is None else min(end_s, form.seconds)) - start_s


def _evenly(name: str, start_s: float, seconds: float, span_seconds: float, count: int) -> list[Span]:
    step_s = (seconds - span_seconds) / (count - 1)
    starts_s = [start_s + i * step_s for i in range(count)]
    return [Span(name=name, start_s=first_s, end_s=first_s + span_seconds) for first_s in starts_s]
