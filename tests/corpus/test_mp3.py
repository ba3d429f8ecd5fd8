"""MP3s are heard to their end, whether or not they say how long they are, and however they were cut and joined."""

import io
from typing import Literal

import numpy as np
import pytest
import soundfile
from limits import limits
from numpy.typing import NDArray
from own_recordings import Mode, mp3, without_count

from kws_dist.corpus.audio import AudioForm, audio_form, decode
from kws_dist.corpus.clip import Samples
from kws_dist.errors import ClipError

MODES: tuple[Mode, ...] = ("CONSTANT", "VARIABLE", "AVERAGE")
DELAY = 576
"""What the encoder puts before the sound, beside what every decoder leaves out."""
ID3V2 = b"ID3\x03\0\0\0\0\x07\x76" + b"\xff\xfb\x90\0" * 253 + b"\0\0"
ID3V1 = b"TAG" + b"x" * 125
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (32 + 40).to_bytes(4, "little") + b"\1\0\0\0\0\0\0\xa0" + bytes(80)


def noise(seconds: float, rate_hz: int, channels: int = 1, seed: int = 0) -> NDArray[np.float64]:
    wave = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate_hz), channels))
    return wave * np.linspace(0, 2, len(wave))[:, None]  # so that the first frames tell nothing about the last


def form_of(content: bytes) -> AudioForm:
    return audio_form(io.BytesIO(content), len(content), "x")


def assert_same(heard: Samples, expected: Samples) -> None:
    """A decoder that begins elsewhere adds up in another order: some samples are rounded to the next step."""
    assert heard.shape == expected.shape
    np.testing.assert_allclose(heard, expected, rtol=0, atol=1)


def frames_of(content: bytes) -> list[int]:
    """Return where the frames begin; those of constant noise differ by no more than a byte of padding."""
    size = content.index(content[:2], 4)
    return [i * size for i in range(len(content) // size)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("rate_hz", "seconds", "channels"),
    [
        *((rate_hz, 1, 1) for rate_hz in (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000)),
        *((rate_hz, 1, 2) for rate_hz in (8_000, 22_050, 44_100)),
        *((rate_hz, 30, 1) for rate_hz in (16_000, 44_100)),
    ],
)
def test_without_its_count_it_is_as_long_as_with_it(mode: Mode, rate_hz: int, seconds: float, channels: int) -> None:
    content = mp3(noise(seconds, rate_hz, channels), rate_hz, mode)
    with_count, bare = form_of(content), form_of(without_count(content))
    assert (with_count.frames, with_count.rate_hz, with_count.channels) == (seconds * rate_hz, rate_hz, channels)
    assert (bare.rate_hz, bare.channels) == (rate_hz, channels)
    assert DELAY <= bare.frames - with_count.frames < DELAY + 2 * 1152  # and whole frames at the end
    assert len(decode(without_count(content), "x")) == bare.clip_samples


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seconds", [1, 30])
def test_without_its_count_it_has_the_same_samples(mode: Mode, seconds: float) -> None:
    content = mp3(noise(seconds, 16_000), 16_000, mode)
    expected, heard = decode(content, "x"), decode(without_count(content), "x")
    assert_same(heard[DELAY : DELAY + len(expected)], expected)
    part = decode(without_count(content), "x", start_s=0.25, end_s=0.75)
    assert_same(part, heard[4000:12_000])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("level", [0.001, 0.1])
def test_a_part_of_it_is_that_part_of_the_whole(mode: Mode, is_bare: bool, level: float) -> None:
    for seed, channels in ((1, 1), (2, 2)):
        content = mp3(10 * level * noise(20, 16_000, channels, seed), 16_000, mode)
        content = without_count(content) if is_bare else content
        whole = decode(content, "x")
        for start_s in np.random.default_rng(seed).uniform(0, 19, 10).round(3):
            part = decode(content, "x", start_s=start_s, end_s=start_s + 0.5)
            assert_same(part, whole[round(start_s * 16_000) :][: len(part)])


@pytest.mark.parametrize("mode", MODES)
def test_with_its_count_it_is_what_libsndfile_reads(mode: Mode) -> None:
    content = mp3(noise(1, 16_000), 16_000, mode)
    stored = soundfile.read(io.BytesIO(content))[0]
    np.testing.assert_array_equal(decode(content, "x"), np.rint(stored * 32_768))


@pytest.mark.parametrize("before", [b"", ID3V2, ID3V2 + bytes(3000), ID3V2 * 2])
@pytest.mark.parametrize(
    "after", [b"", ID3V1, APE, APE + ID3V1, bytes(5000), b"LYRICSBEGIN of a song LYRICS200" + ID3V1]
)
@pytest.mark.parametrize("is_bare", [False, True])
def test_tags_and_padding_around_it_change_nothing(before: bytes, after: bytes, is_bare: bool) -> None:
    content = mp3(noise(0.5, 16_000), 16_000, "VARIABLE")
    content = without_count(content) if is_bare else content
    np.testing.assert_array_equal(decode(before + content + after, "x"), decode(content, "x"))


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_one_that_was_cut_out_of_another_is_that_much_shorter(frames: int) -> None:
    content = without_count(mp3(noise(3, 16_000), 16_000, "CONSTANT"))
    cut = content[frames_of(content)[frames] :]
    whole, heard = decode(content, "x"), decode(cut, "x")
    assert len(heard) == len(whole) - 576 * frames
    assert_same(heard[10 * 576 :], whole[(10 + frames) * 576 :])  # the first lean on what was cut off


@pytest.mark.parametrize("told", [b"Xing\0\0\0\0", b"Xing\0\0\0\1\0\0\0\0", b"VBRI"])
def test_a_count_that_was_never_written_or_is_in_a_place_of_its_own_is_no_count(told: bytes) -> None:
    content = mp3(noise(2, 44_100, 2), 44_100, "VARIABLE")
    bare = without_count(content)
    silent = bytearray(len(content) - len(bare))
    silent[:4], silent[36 : 36 + len(told)] = content[:4], told
    np.testing.assert_array_equal(decode(bytes(silent) + bare, "x"), decode(bare, "x"))
    if told == b"VBRI":
        silent[50:54] = (10_000).to_bytes(4)
        with pytest.raises(ClipError, match=r"x: cut off after \d+ of 11520000 samples"):
            form_of(bytes(silent) + bare)


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("after", [b"", ID3V1, ID3V2])
@pytest.mark.parametrize("channels", [1, 2])
def test_two_end_to_end_are_both_heard(is_bare: bool, after: bytes, channels: int) -> None:
    one, two = (mp3(noise(2, 16_000, channels, seed), 16_000, "VARIABLE") for seed in (1, 2))
    first, second = (decode(without_count(content), "x") for content in (one, two))
    joined = without_count(one) + after + without_count(two) if is_bare else one + after + two
    heard = decode(joined, "x")
    begins = len(first) + 529 + (0 if is_bare else 576)  # 529 are left out of each; what counts the second is silent
    assert len(heard) == form_of(joined).frames == begins + len(second)
    assert_same(heard[: len(first) - 1000], first[:-1000])  # where they meet they overlap
    assert_same(heard[begins + 2000 :], second[2000:])


@pytest.mark.parametrize("other", [(8_000, 1), (22_050, 1), (44_100, 1), (16_000, 2)])
@pytest.mark.parametrize("is_bare", [False, True])
def test_two_end_to_end_that_differ_are_refused(other: tuple[int, int], is_bare: bool) -> None:
    rate_hz, channels = other
    one, two = mp3(noise(2, 16_000), 16_000), mp3(noise(2, rate_hz, channels), rate_hz)
    if is_bare:
        one, two = without_count(one), without_count(two)
    for content in (one + two, two + one, one + ID3V1 + ID3V2 + two):
        for read in (form_of, lambda content: decode(content, "x")):
            with pytest.raises(ClipError, match=r"x: damaged after 2\.\d\d s, or several recordings in one file"):
                read(content)


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("junk", [b"\0" * 100, b"?" * 100_000, bytes(2 << 20), b"\xff\xfb" * 500])
def test_what_is_no_frame_in_its_midst_is_refused(is_bare: bool, junk: bytes) -> None:
    content = mp3(noise(2, 16_000), 16_000)
    content = without_count(content) if is_bare else content
    place = frames_of(content)[30]
    with pytest.raises(ClipError, match=r"x: damaged after 1\.0\d s, or several recordings"):
        decode(content[:place] + junk + content[place:], "x")


@pytest.mark.parametrize("mode", MODES)
def test_one_without_a_count_is_refused_if_it_ends_in_the_middle_of_a_frame(mode: Mode) -> None:
    content = without_count(mp3(noise(1, 16_000), 16_000, mode))
    whole = form_of(content)
    for missing in (1, 2, 30, 50):
        with pytest.raises(ClipError, match=r"x: cut off"):
            form_of(content[:-missing])
    ends = [content.rindex(content[:2]) + length for length in range(5)]  # where nothing but a part of a header is left
    assert form_of(content[: ends[0]]).frames == whole.frames - 576
    for end in ends[1:]:
        with pytest.raises(ClipError, match=r"x: cut off"):
            form_of(content[:end])


@pytest.mark.parametrize("missing", [1, 2, 20])
def test_one_with_fewer_frames_than_it_counts_is_cut_off_also_where_a_frame_ends(missing: int) -> None:
    content = mp3(noise(1, 16_000), 16_000, "CONSTANT")
    cut = content[: frames_of(content)[-missing]]
    with pytest.raises(ClipError, match=r"x: cut off after \d+ of \d+ samples"):
        form_of(cut)


def test_one_of_nothing_but_a_count_has_no_samples() -> None:
    content = mp3(noise(1, 16_000), 16_000)
    with pytest.raises(ClipError, match="x: no samples"):
        form_of(content[: len(content) - len(without_count(content))])


Hostile = Literal["frames", "headers", "tags", "beginnings", "zeros"]


@pytest.mark.parametrize("what", ["frames", "headers", "tags", "beginnings", "zeros"])
def test_a_large_one_that_somebody_made_up_takes_no_time_and_memory(what: Hostile) -> None:
    no_tag = b"ID3\3\0\0\0\0\0\0"
    smallest = b"\xff\xf3\x14\xc0" + bytes(20)  # 8 kbit/s at 24 kHz
    made, frames = {
        "frames": (smallest * (1 << 20), 1 << 20),
        "headers": (smallest * 10 + smallest[:4] * (4 << 20), 0),
        "tags": (smallest * 10 + no_tag * (1 << 20), 10),
        "beginnings": (no_tag * (1 << 20) + smallest * 10, 10),
        "zeros": (no_tag + bytes(32 << 20) + smallest, 0),
    }[what]
    with limits():
        try:
            assert form_of(made).frames == frames * 576 - 529
        except ClipError:
            assert frames == 0
