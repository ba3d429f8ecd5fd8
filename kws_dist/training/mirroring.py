"""What a run gives to look at and listen to, besides its curves: to its folder, and to where its numbers go."""

import io
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from kws_dist.evaluation.evaluate import Evaluation
from kws_dist.evaluation.worst import WorstClip
from kws_dist.files import write_whole
from kws_dist.tracking import HeardClip, Tracker
from kws_dist.training.job import Job

WORST_CLIPS = "worst_clips"
"""Name of the folder, and of the list in it."""
_LONGEST_WORD = 20  # in a file name, which may have 255 bytes


def mirror_results(job: Job, results: dict[str, Evaluation], tracker: Tracker) -> None:
    """Track a confusion matrix for each split, and the worst clips of the last one, which are written down as well.

    For rank 0 alone.
    """
    words = job.data.dataset.words
    for split, evaluation in results.items():
        tracker.log_confusion(f"{split}/confusion", words, evaluation.confusion)
    for split, evaluation in list(results.items())[-1:]:
        clips = _write_clips(job, split, evaluation.worst)
        if clips:
            tracker.log_clips(f"{split}/{WORST_CLIPS}", clips)


def mirror_checkpoint(job: Job, path: Path, is_best: bool, tracker: Tracker) -> None:
    """Track a checkpoint that was just saved, if that is wanted. For rank 0 alone."""
    if job.config.tracking.checkpoints:
        tracker.log_checkpoint(path, ["best", "latest"] if is_best else ["latest"])


def _write_clips(job: Job, split: str, worst: Sequence[WorstClip]) -> list[HeardClip]:
    """Write clips as the model hears them, and a list of them, in place of those of an earlier evaluation."""
    folder = job.run.path / WORST_CLIPS
    shutil.rmtree(folder, ignore_errors=True)
    if not worst:
        return []
    folder.mkdir()
    store, words = job.data.stores[split], job.data.dataset.words
    pcm = store.gather(np.array([one.clip for one in worst])).cpu().numpy()
    clips = []
    for place, (one, samples) in enumerate(zip(worst, pcm, strict=True), start=1):
        word, heard = words[store.rows.label[one.clip]], words[one.predicted]
        path = folder / f"{place:03d}_{_plain(word)}_heard_as_{_plain(heard)}.wav"
        sound = io.BytesIO()
        soundfile.write(sound, samples, job.data.dataset.sample_rate_hz, format="WAV", subtype="PCM_16")
        path.write_bytes(sound.getvalue())
        key = store.rows.keys[one.clip]
        clips.append(HeardClip(key=key, word=word, heard=heard, probability=one.probability, loss=one.loss, path=path))
    lines = "".join(json.dumps(_line(clip), ensure_ascii=False) + "\n" for clip in clips)
    write_whole(folder / f"{WORST_CLIPS}.jsonl", lines.encode())
    return clips


def _line(clip: HeardClip) -> dict[str, str | float | None]:
    figures = {"probability": clip.probability, "loss": clip.loss}
    return {
        "file": clip.path.name,
        "key": clip.key,
        "word": clip.word,
        "heard": clip.heard,
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
    }


def _plain(word: str) -> str:
    """Return a word as a part of a file name."""
    return re.sub(r"\W+", "-", word)[:_LONGEST_WORD]
