"""What the doctor finds in recordings: all that was planted, where it was planted, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from spoken_corpus import WORDS, Recording, shards_of_recordings, spoken, word

from kws_dist.corpus.clip import SILENCE_WORD, Samples
from kws_dist.shards.checkup import Checkup, check_up
from kws_dist.shards.examine import MEASURES, measure


def found_in(recordings: dict[str, Recording], out: Path, words: tuple[str, ...] = WORDS) -> dict[str, set[str]]:
    """The keys by kind of finding."""
    checkup = check_up(shards_of_recordings(recordings.values(), out, words=words))
    assert checkup.verified.faults == []
    return {finding.kind: finding.keys for finding in checkup.findings if finding.items}


def item_of(checkup: Checkup, kind: str) -> str:
    """The sentence of the only case of a finding."""
    [finding] = [finding for finding in checkup.findings if finding.kind == kind]
    [item] = finding.items
    return item.what


def test_in_a_set_with_which_nothing_is_wrong_nothing_is_found(tmp_path: Path) -> None:
    for codec in ("wav", "flac"):
        checkup = check_up(shards_of_recordings(spoken().values(), tmp_path / codec, codec=codec), workers=2)
        assert checkup.is_fine
        assert {finding.kind: finding.items for finding in checkup.findings if finding.items} == {}
        assert checkup.verified.clips == 3 * 3 * 4 + 1


CHANGES = {
    "speaker_in_two_splits": ({"yes/val-0": {"speaker": "train-1"}}, {"yes/val-0", *(f"{w}/train-1" for w in WORDS)}),
    "audio_in_two_splits": ({"yes/val-0": {"samples": word(1)}}, {"yes/val-0", "yes/train-1"}),
    "audio_under_two_words": ({"no/train-0": {"samples": word(1)}}, {"no/train-0", "yes/train-1"}),
    "audio_twice": ({"yes/train-0": {"samples": word(1)}}, {"yes/train-0", "yes/train-1"}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_leak_or_a_double_is_found_where_it_is(tmp_path: Path, kind: str) -> None:
    changes, keys = CHANGES[kind]
    recordings = spoken()
    for key, change in changes.items():
        recordings[key] = replace(recordings[key], **change)
    assert found_in(recordings, tmp_path / "out") == {kind: keys}
    checkup = check_up(tmp_path / "out")
    assert checkup.is_fine == (kind == "audio_twice"), (
        "doubles within a word and split are a warning, the rest is wrong"
    )
    assert ("(val)" in item_of(checkup, kind)) == (kind == "audio_in_two_splits")


def test_a_double_in_another_split_and_under_another_word_is_both(tmp_path: Path) -> None:
    recordings = spoken()
    recordings["no/test-0"] = replace(recordings["no/test-0"], samples=word(1))
    keys = {"no/test-0", "yes/train-1"}
    assert found_in(recordings, tmp_path) == {"audio_in_two_splits": keys, "audio_under_two_words": keys}


def flat_topped(run: int) -> Samples:
    """A word with so many samples in a row at full scale."""
    samples = word(77)
    samples[4000 : 4000 + run] = 32767
    return samples


def cut(at: str, *, zeros: int = 0) -> Samples:
    """A word of which the first or the last third is not there, with zeros in its place."""
    samples = word(78)
    part = samples[:4000] if at == "end" else samples[4000:]
    padding = np.zeros(zeros, np.int16)
    return np.concatenate([part, padding] if at == "end" else [padding, part])


POOR = {
    "full scale": ("clipped", flat_topped(3)),
    "most negative": ("clipped", -flat_topped(5)),
    "zeros": ("silent", np.zeros(8000, np.int16)),
    "constant": ("silent", np.full(8000, -7, np.int16)),
    "quiet": ("near_empty", word(79, level=100)),
    "short": ("near_empty", word(79, n_samples=1500)),
    "only noise": ("near_empty", np.random.default_rng(1).integers(-900, 900, 8000).astype(np.int16)),
    "begins too late": ("cut_off", cut("start")),
    "ends too early": ("cut_off", cut("end")),
    "ends too early and was padded": ("cut_off", cut("end", zeros=4000)),
    "begins too late and was padded": ("cut_off", cut("start", zeros=4000)),
}


@pytest.mark.parametrize("case", POOR)
def test_a_poor_recording_is_found_and_is_a_warning(tmp_path: Path, case: str) -> None:
    kind, samples = POOR[case]
    recordings = spoken()
    recordings["no/val-2"] = replace(recordings["no/val-2"], samples=samples)
    assert found_in(recordings, tmp_path / "out") == {kind: {"no/val-2"}}
    assert check_up(tmp_path / "out").is_fine


@pytest.mark.parametrize(
    "samples",
    [
        flat_topped(2),
        word(80, level=250),
        word(80) + np.int16(300),
        word(80, n_samples=1700),
        np.concatenate([np.zeros(2000, np.int16), word(80), np.zeros(2000, np.int16)]),
    ],
    ids=["two samples at full scale", "soft", "with an offset", "brief", "padded"],
)
def test_a_recording_that_is_merely_unusual_is_not_reported(tmp_path: Path, samples: Samples) -> None:
    recordings = spoken()
    recordings["no/val-2"] = replace(recordings["no/val-2"], samples=samples)
    assert found_in(recordings, tmp_path) == {}


def test_a_click_at_the_very_end_is_no_word_that_is_cut_off(tmp_path: Path) -> None:
    recordings = spoken()
    samples = word(80)
    samples[-60:] += np.random.default_rng(0).integers(-6000, 6000, 60).astype(np.int16)
    recordings["no/val-2"] = replace(recordings["no/val-2"], samples=samples)
    assert found_in(recordings, tmp_path) == {}


def test_silence_and_noise_may_be_silent_quiet_and_steady(tmp_path: Path) -> None:
    recordings = spoken()
    steady = np.random.default_rng(3).integers(-3, 4, 16_000).astype(np.int16)
    for split, samples in (("train", steady), ("val", steady // 2), ("test", 0 * steady), ("test", 0 * steady)):
        key = f"{SILENCE_WORD}/{split}-{len(recordings)}"
        recordings[key] = Recording(key=key, word=SILENCE_WORD, split=split, samples=samples)
    key = f"{SILENCE_WORD}/rising"
    recordings[key] = Recording(key=key, word=SILENCE_WORD, split="train", samples=cut("end"))
    assert found_in(recordings, tmp_path, words=(*WORDS, SILENCE_WORD)) == {}


def test_noise_that_is_silent_or_clipped_is_found(tmp_path: Path) -> None:
    recordings = spoken()
    for key, samples in (("noise/off", np.zeros(9000, np.int16)), ("noise/loud", np.full(9000, 32767, np.int16))):
        samples[0] = samples[1] if key == "noise/off" else 0
        recordings[key] = replace(recordings["noise/hum"], key=key, samples=samples)
    assert found_in(recordings, tmp_path) == {"silent": {"noise/off"}, "clipped": {"noise/loud"}}


def test_the_noise_may_be_by_a_speaker_of_words(tmp_path: Path) -> None:
    recordings = spoken()
    recordings["noise/hum"] = replace(recordings["noise/hum"], speaker="train-1")
    assert found_in(recordings, tmp_path) == {}


def test_a_word_that_is_missing_in_a_split_is_found_and_a_split_that_is_empty_is_not(tmp_path: Path) -> None:
    recordings = {key: one for key, one in spoken().items() if one.split != "val" and not key.startswith("no/test")}
    checkup = check_up(shards_of_recordings(recordings.values(), tmp_path))
    assert item_of(checkup, "word_without_clips") == "no in test"
    assert checkup.is_fine
    assert set(checkup.to_dict()["balance"]) == {"train", "test"}


def test_without_speakers_no_leak_is_claimed_or_denied(tmp_path: Path) -> None:
    recordings = [replace(one, speaker="") for one in spoken().values()]
    checkup = check_up(shards_of_recordings(recordings, tmp_path))
    assert checkup.to_dict()["speakers"] == {"speakers": 0, "clips_with_speaker": 0, "clips_without": 36}


def test_counts_lengths_and_levels_are_those_of_the_recordings(tmp_path: Path) -> None:
    recordings = {key: one for key, one in spoken().items() if key not in ("yes/train-0", "yes/train-1")}
    sine = 7000 + np.rint(16384 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)).astype(np.int16)
    recordings["yes/train-2"] = replace(recordings["yes/train-2"], samples=sine)
    found = check_up(shards_of_recordings(recordings.values(), tmp_path)).to_dict()
    assert found["words"]["yes"]["clips"] == {"train": 2, "val": 4, "test": 4}
    assert found["words"]["yes"]["length_s"] == [0.5, 0.5, 1.0]
    assert found["words"]["yes"]["level_dbfs"][2] == pytest.approx(-9.0, abs=0.1), (
        "a sine at half of full scale, whatever its offset"
    )
    assert found["words"]["_background_noise_"]["clips"] == {"noise": 1}
    train = found["balance"]["train"]
    assert (train["rarest"], train["rarest_clips"], train["commonest_clips"], train["ratio"]) == ("yes", 2, 4, 0.5)
    assert found["speakers"] == {"speakers": 12, "clips_with_speaker": 34, "clips_without": 0}


@given(samples=arrays.arrays(np.int16, st.integers(1, 700)))
@example(samples=np.full(321, 55, np.int16))
@settings(deadline=None, max_examples=200)
def test_any_samples_at_all_can_be_measured(samples: Samples) -> None:
    row = np.array([measure(samples)], MEASURES)[0]
    for name in ("level_dbfs", "loudest_dbfs", "contrast_db", "start_db", "end_db"):
        assert np.isfinite(row[name])
    assert -120 <= row["level_dbfs"] <= 0.01
    assert row["contrast_db"] >= 0
    assert row["start_db"] <= 1e-3 >= row["end_db"]
    full = [abs(int(sample)) >= 32767 for sample in samples]
    assert row["full_scale_samples"] == sum(full)
    text = "".join("x" if one else " " for one in full)
    assert row["clipped_runs"] == sum(len(run) >= 3 for run in text.split())
