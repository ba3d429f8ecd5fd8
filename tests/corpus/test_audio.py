"""What `audio_form` and `decode` promise: any format in, 16 kHz mono PCM out, and never a damaged recording."""

import io
import struct
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_recordings import encoded, sine
from tiny_corpus import tone, wav_file

from kws_dist.corpus.audio import AudioForm, audio_form, decode, loudest_part
from kws_dist.corpus.clip import Samples
from kws_dist.errors import ClipError

FORMATS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
RATES_HZ = [8_000, 16_000, 22_050, 44_100, 48_000]
OPUS_RATES_HZ = [8_000, 16_000, 24_000, 48_000]


def form_of(content: bytes) -> AudioForm:
    return audio_form(io.BytesIO(content), len(content), "x.wav")


def listed_and_decoded(content: bytes) -> Samples:
    form_of(content)
    return decode(content, "x.wav")


def strongest_hz(samples: Samples) -> float:
    middle = samples[4000:12_000] * np.hanning(8000)
    return float(np.argmax(np.abs(np.fft.rfft(middle)))) * 2.0


@pytest.mark.parametrize(
    ("kind", "subtype", "rate_hz"),
    [(*of, rate_hz) for of in FORMATS for rate_hz in (OPUS_RATES_HZ if of[1] == "OPUS" else RATES_HZ)],
)
def test_a_tone_in_any_format_and_rate_keeps_its_length_frequency_and_level(
    kind: str, subtype: str, rate_hz: int
) -> None:
    content = encoded(sine(rate_hz=rate_hz), rate_hz, kind, subtype)
    form, samples = form_of(content), decode(content, "x")
    assert (form.frames, form.rate_hz, form.channels, form.clip_samples) == (rate_hz, rate_hz, 1, 16_000)
    assert samples.shape == (16_000,)
    assert samples.dtype == np.int16
    assert strongest_hz(samples) == 1000.0
    level = float(np.sqrt(np.mean((samples[4000:12_000] / 32_768) ** 2)))
    assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.04)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("WAVEX", "PCM_16"), ("FLAC", "PCM_16")])
def test_16_bit_mono_at_16_khz_comes_out_to_the_bit(kind: str, subtype: str) -> None:
    samples = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, 5000).astype(np.int16)
    np.testing.assert_array_equal(decode(encoded(samples, kind=kind, subtype=subtype), "x"), samples)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16")])
def test_channels_are_averaged(kind: str, subtype: str) -> None:
    left, right = np.array([1000, -2000, 300], np.int16), np.array([3000, 2000, -100], np.int16)
    content = encoded(np.stack([left, right], axis=1) / 32_768, kind=kind, subtype=subtype)
    assert form_of(content).channels == 2
    np.testing.assert_array_equal(decode(content, "x"), [2000, 0, 100])


def test_what_is_louder_than_full_scale_is_clipped_and_does_not_wrap() -> None:
    loud = encoded(np.array([1.5, -1.5, 0.5]), subtype="FLOAT")
    np.testing.assert_array_equal(decode(loud, "x"), [32_767, -32_768, 16_384])


def test_a_tone_that_16_khz_cannot_hold_does_not_come_back_as_another() -> None:
    samples = decode(encoded(sine(rate_hz=48_000, tone_hz=12_000), 48_000), "x")
    assert np.abs(samples[4000:12_000]).max() < 10


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16))
SOUND = tone(1)
DATA = chunk(b"data", SOUND.tobytes())


@pytest.mark.parametrize(
    "content",
    [
        riff(chunk(b"JUNK", bytes(28)), FMT, chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf\0"), DATA),
        riff(FMT, chunk(b"LIST", bytes(6001)), DATA),
        riff(FMT, DATA, chunk(b"LIST", b"after the samples")),
        riff(FMT, DATA) + b"and more",
    ],
    ids=["before", "larger than the head that is read, and odd", "after", "after the end"],
)
def test_other_chunks_in_a_wav_are_passed_over(content: bytes) -> None:
    assert form_of(content).frames == len(SOUND)
    np.testing.assert_array_equal(decode(content, "x"), SOUND)


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_that_was_written_before_its_length_was_known_is_read_to_its_end(length: int) -> None:
    content = riff(FMT, b"data" + struct.pack("<I", length) + SOUND.tobytes())
    assert form_of(content).frames == len(SOUND)
    np.testing.assert_array_equal(decode(content, "x"), SOUND)


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW"])
def test_so_it_is_in_any_form_and_at_any_rate(length: int, rate_hz: int, subtype: str) -> None:
    content = encoded(sine(rate_hz=rate_hz), rate_hz, subtype=subtype)
    place = content.index(b"data") + 4
    unfinished = content[:4] + struct.pack("<I", length) + content[8:place] + struct.pack("<I", length)
    unfinished += content[place + 4 :]
    assert form_of(unfinished) == form_of(content)
    np.testing.assert_array_equal(decode(unfinished, "x"), decode(content, "x"))


def test_samples_in_wider_blocks_are_counted_as_they_are_read() -> None:
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 64_000, 4, 24))
    content = riff(fmt, chunk(b"data", (SOUND.astype("<i4") << 8).tobytes()))
    assert form_of(content).frames == len(decode(content, "x"))


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125)])
def test_two_recordings_end_to_end_are_refused_and_not_half_heard(
    kind: str, subtype: str, rate_hz: int, tail: bytes
) -> None:
    one, two = (encoded(sine(rate_hz=rate_hz, tone_hz=hz), rate_hz, kind, subtype) for hz in (500, 1000))
    assert len(listed_and_decoded(one + tail)) == 16_000
    for joined in (one + two + tail, one + one + two):
        with pytest.raises(ClipError, match=r"x.wav: it holds several recordings one after another.*; split it"):
            listed_and_decoded(joined)


def test_ogg_pages_with_something_between_are_refused() -> None:
    content = encoded(sine(5), 16_000, "OGG", "VORBIS")
    place = content.index(b"OggS", len(content) // 2)
    for junk in (b"TAG" + bytes(125), bytes(2 << 20)):
        with pytest.raises(ClipError, match=r"x.wav: damaged"):
            listed_and_decoded(content[:place] + junk + content[place:])


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16")])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_a_part_is_what_lies_between_two_times(kind: str, subtype: str, rate_hz: int) -> None:
    steps = np.repeat(np.arange(10) / 20, rate_hz // 10)  # a stair, a step each tenth of a second
    content = encoded(steps, rate_hz, kind, subtype)
    part = decode(content, "x", start_s=0.2, end_s=0.5)
    assert len(part) == 4800
    np.testing.assert_allclose(part[[800, 2400, 4000]] / 32_768, [0.1, 0.15, 0.2], atol=0.001)
    assert len(decode(content, "x", start_s=0.9)) == 1600


@pytest.mark.parametrize(("kind", "subtype"), [*FORMATS, ("WAV", "IMA_ADPCM"), ("CAF", "ALAC_16")])
def test_a_recording_cut_anywhere_is_refused_by_name_and_never_shorter(kind: str, subtype: str) -> None:
    content = encoded(0.3 * np.random.default_rng(0).standard_normal(8000), 16_000, kind, subtype)
    for cut in np.linspace(1, len(content) - 2, 12).astype(int).tolist():
        with pytest.raises(ClipError, match=r"^x.wav: "):
            listed_and_decoded(content[:cut])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        b"hello" * 100,
        b"fLaC" + bytes(99),
        b"OggS" + bytes(99),
        bytes(999),
        b"RIFF\0\0\0\0WAVE" + bytes(50),
    ],
)
def test_garbage_is_refused_by_name_with_the_same_words_every_time(content: bytes) -> None:
    said = set()
    for _ in range(2):
        with pytest.raises(ClipError, match=r"^x.wav: [^<]*$") as caught:
            form_of(content)
        said.add(str(caught.value))
        with pytest.raises(ClipError, match=r"^x.wav: "):
            decode(content, "x.wav")
    assert len(said) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(value: float) -> None:
    with pytest.raises(ClipError, match=r"x: it holds samples that are not numbers"):
        decode(encoded(np.array([0.1, value, 0.1]), subtype="FLOAT"), "x")


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16")])
def test_a_recording_without_samples_is_refused(kind: str, subtype: str) -> None:
    with pytest.raises(ClipError, match=r"x.wav: (no samples|not a recording)"):
        form_of(encoded(np.zeros(0), 16_000, kind, subtype))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_floats_that_are_16_bit_numbers_left_undivided_are_refused_and_not_heard_as_noise(rate_hz: int) -> None:
    with pytest.raises(ClipError, match=r"x: its samples go up to 16,384, and those of a float file are in \[-1, 1\]"):
        decode(encoded(32_768 * sine(rate_hz=rate_hz), rate_hz, subtype="FLOAT"), "x")
    assert len(decode(encoded(3 * sine(rate_hz=rate_hz), rate_hz, subtype="FLOAT"), "x")) == 16_000


def test_an_hour_packed_into_a_small_file_is_not_decoded_at_once() -> None:
    frames = 3600 * 16_000
    silence = encoded(np.zeros(frames, np.int16), kind="FLAC")
    assert len(silence) < 1 << 20
    assert form_of(silence).frames == frames
    with pytest.raises(ClipError, match=r"x: it lasts 3,600 s; cut it into recordings of 524 s"):
        decode(silence, "x")
    assert len(decode(silence, "x", start_s=2000.0, end_s=2001.0)) == 16_000


WAVS = [
    wav_file(tone(1)),
    encoded(sine(0.05, rate_hz=8000), 8000, "FLAC"),
    encoded(sine(0.05), 16_000, "OGG", "VORBIS"),
]


@given(which=st.integers(0, 2), bits=st.lists(st.integers(0, 1 << 14), min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_flipped_bits_give_samples_or_a_clip_error(which: int, bits: list[int]) -> None:
    changed = bytearray(WAVS[which])
    for bit in bits:
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    with suppress(ClipError):
        assert listed_and_decoded(bytes(changed)).dtype == np.int16


def test_the_loudest_part_is_where_the_energy_is() -> None:
    samples = np.concatenate([tone(1, 3000) // 50, tone(2, 1000), tone(3, 2000) // 50])
    np.testing.assert_array_equal(loudest_part(samples, 1000), samples[3000:4000])
    assert loudest_part(samples, 6000) is samples
    assert len(loudest_part(np.zeros(50, np.int16), 20)) == 20


PEAK_OF_A_LOW_RATE = """
import io, resource, numpy as np, soundfile
from kws_dist.corpus.audio import decode
from kws_dist.errors import ClipError
file = io.BytesIO()
soundfile.write(file, np.zeros(30_000_000, np.int16), 1000, subtype="PCM_U8", format="WAV")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(file.getvalue(), "slow.wav")
except ClipError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_low_rate_does_not_make_a_small_file_a_large_one() -> None:
    told = subprocess.run([sys.executable, "-c", PEAK_OF_A_LOW_RATE], capture_output=True, text=True, check=True)
    says, grown_mib = told.stdout.splitlines()
    assert says == "slow.wav: it lasts 30,000 s; cut it into recordings of 524 s"
    assert int(grown_mib) < 64
