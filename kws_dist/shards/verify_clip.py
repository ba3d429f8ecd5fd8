"""Whether one clip in a shard is what the index and `dataset.json` say: its tar headers, its audio, its labels.

Its bytes are compared with those that it should have, made anew; that is several times as fast as parsing them. Only
where they differ is a clip taken apart, to say why.
"""

import json
import tarfile
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import xxhash

from kws_dist.corpus.clip import NOISE_WORD
from kws_dist.shards.codec import WAV_HEADER_BYTES, decode, encode
from kws_dist.shards.index import ShardIndex
from kws_dist.shards.record import BLOCK_BYTES, checksum_of, padded, tar_header


def clip_check(index: ShardIndex, words: Sequence[str] | None) -> Callable[[int, memoryview], str | None]:
    """Return a function of a clip's number and its record that says what is wrong with it, or None.

    It is for records whose checksum is right, so it sees what was written wrongly, not what was damaged since.
    `words` is the vocabulary, None if it is not known.
    """
    columns = ("audio_bytes", "n_samples", "label", "speaker", "checksum")
    rows = list(zip(index.keys, *(index.rows[name].tolist() for name in columns), strict=True))
    labels_of = lru_cache(maxsize=None)(_labels)

    def check(number: int, record: memoryview) -> str | None:
        key, audio_bytes, n_samples, label, speaker, checksum = rows[number]
        audio_end = BLOCK_BYTES + audio_bytes
        json_start = BLOCK_BYTES + padded(audio_bytes)
        if record[:BLOCK_BYTES] != tar_header(f"{key}.{index.codec}", audio_bytes):
            return f"its tar header is not that of {key}.{index.codec} with {audio_bytes:,} bytes"
        if bytes(record[audio_end:json_start]).strip(b"\0"):
            return "there is something between its audio and its labels"
        fault = _audio_fault(record[BLOCK_BYTES:audio_end], index.codec, n_samples, checksum)
        expected = {"label": label, "speaker": index.speakers[speaker]}
        if words is not None:
            expected["word"] = NOISE_WORD if label < 0 else words[label]
            text = labels_of(**expected)
            header = tar_header(f"{key}.json", len(text))
            if record[json_start:] == header + text.ljust(padded(len(text)), b"\0"):
                return fault
        return fault or _labels_fault(bytes(record[json_start:]), f"{key}.json", expected)

    return check


def _labels(label: int, speaker: str, word: str) -> bytes:
    """Return the content of the `.json` of a clip, as `make_record` writes it."""
    return json.dumps({"label": label, "speaker": speaker, "word": word}, sort_keys=True).encode()


@lru_cache(maxsize=1024)
def _wav_header(n_samples: int) -> bytes:
    return encode(np.zeros(n_samples, np.int16), "wav")[:WAV_HEADER_BYTES]


def _audio_fault(audio: memoryview, codec: str, n_samples: int, checksum: int) -> str | None:
    if codec == "wav":
        if audio[:WAV_HEADER_BYTES] != _wav_header(n_samples):
            return f"its WAV header is not that of {n_samples:,} samples of 16-bit mono PCM at 16 kHz"
        is_right = xxhash.xxh3_64_intdigest(audio[WAV_HEADER_BYTES:]) == checksum
    else:
        try:
            samples = decode(audio, "flac", n_samples)
        except ValueError as error:
            return f"its audio cannot be decoded ({error})"
        is_right = checksum_of(samples) == checksum
    return None if is_right else "its samples do not match the checksum of its index"


def _labels_fault(member: bytes, name: str, expected: dict[str, object]) -> str | None:
    """Say what is wrong with the `.json` of a clip; it may hold more than what is expected."""
    try:
        size_bytes = tarfile.TarInfo.frombuf(member[:BLOCK_BYTES], "utf-8", "strict").size
    except (tarfile.HeaderError, ValueError) as error:
        return f"the tar header of {name} cannot be read ({error})"
    if not 0 <= size_bytes <= len(member) - BLOCK_BYTES:
        return f"the tar header of {name} claims {size_bytes:,} bytes"
    text = member[BLOCK_BYTES : BLOCK_BYTES + size_bytes]
    if member != tar_header(name, size_bytes) + text.ljust(padded(size_bytes), b"\0"):
        return f"the tar header of {name} is wrong, or there is something behind its labels"
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        return f"{name} cannot be read ({error})"
    for field, value in expected.items():
        if not isinstance(found, dict) or field not in found:
            return f"{name} has no {field!r}"
        if found[field] != value or type(found[field]) is not type(value):
            return f"{name} says {field} {found[field]!r}, and the index {value!r}"
    return None


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a field is there twice")
    return dict(pairs)
