"""The front end as a whole: the bits it always made, partners, and rows that do not know of each other."""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.errors import UsageError
from kws_dist.frontend.augment import (
    BackgroundNoise,
    DrawnSilence,
    DropChunks,
    Gain,
    Mix,
    NoiseAtSnr,
    NoiseBank,
    Reverb,
    Sounds,
    SpecAugment,
    Speed,
    Tempo,
    TimeShift,
    WhiteNoise,
    feature_augmentation,
    wave_augmentation,
)
from kws_dist.frontend.augment_settings import AugmentSettings
from kws_dist.frontend.chance import PARTNER
from kws_dist.frontend.features import LogMel
from kws_dist.frontend.pipeline import FrontEnd

SAMPLES = 1600
CLIPS = 48
EVERYTHING = AugmentSettings(
    speed_percent=15,
    speed_probability=0.5,
    tempo_percent=15,
    tempo_probability=0.5,
    shift_ms=20.0,
    mixup_probability=0.3,
    mixup_alpha=0.4,
    cutmix_probability=0.3,
    snr_noise_probability=0.3,
    noise_amplitude=0.5,
    gain_min_db=-10.0,
    gain_max_db=3.0,
    white_noise_probability=0.5,
    drop_chunks=2,
    drop_ms=10.0,
    frequency_mask_bins=5,
    rectangle_masks=1,
)
WAVES = replace(EVERYTHING, time_masks=0, frequency_masks=0, rectangle_masks=0)
OFF = AugmentSettings(shift_ms=0.0, noise_amplitude=0.0, time_masks=0)


def pcm(rows: int, samples: int, key: int) -> Tensor:
    """Clips `(rows, samples)` int16 in [-8192, 8191], the same on any machine."""
    return (keyed.mixed_with(key, torch.arange(rows * samples).view(rows, samples)) >> 50).to(torch.int16)


def bank() -> NoiseBank:
    return NoiseBank([pcm(1, 5000, 1)[0] * 3, pcm(1, 2000, 2)[0]], clip_samples=SAMPLES)


def sounds(*, rooms: bool = True) -> Sounds:
    noise = bank()
    silence = DrawnSilence(noise, seed=7, silence_label=1, heard=range(100, 1500))
    responses = [torch.logspace(0, -3, 400 + 100 * i) for i in range(3)] if rooms else []
    return Sounds(noise=noise, silence=silence, responses=responses)


def front_end(settings: AugmentSettings, features: nn.Module | None = None, *, rooms: bool = True) -> FrontEnd:
    waves = wave_augmentation(settings, sounds(rooms=rooms), seed=7, sample_rate_hz=16_000, pad="end")
    return FrontEnd(features or LogMel(), wave_augment=waves, feature_augment=feature_augmentation(settings, seed=7))


def clips() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """PCM, draws and labels of 48 clips, and PCM and labels of their partners."""
    draws = torch.arange(CLIPS) * 10**9 + 5
    return pcm(CLIPS, SAMPLES, 3), draws, torch.arange(CLIPS) % 3, pcm(CLIPS, SAMPLES, 4), (draws + 1) % 3


def sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_shift_silence_noise_and_masks_make_the_bits_they_always_made() -> None:
    """Hashes from before there was any other augmentation: whoever resumes an old run hears the same."""
    noise = bank()
    waves = FrontEnd(
        nn.Identity(),
        wave_augment=(
            TimeShift(seed=7, max_samples=300, probability=0.8),
            DrawnSilence(noise, seed=7, silence_label=1, heard=range(100, 1500)),
            BackgroundNoise(noise, seed=7, max_amplitude=0.5, probability=0.8),
        ),
    )
    draws = torch.arange(70) * 10**9 + 5
    heard = waves(pcm(70, SAMPLES, 3), draws, torch.arange(70) % 3)
    assert sha256(heard) == "e74372302df545f64f9135e7c8f4dacc9dc4cafe5f69c946f83079b88f97e2e2"
    masks = SpecAugment(seed=7, time_masks=2, max_time_frames=20, frequency_masks=2, max_frequency_bins=7)
    spectra = (pcm(70, 40 * 64, 4) >> 6).float().view(70, 1, 40, 64)  # whole numbers, whose mean is the same everywhere
    masked = masks(spectra, draws)
    assert sha256(masked == spectra) == "d326bfd6143defead27992a2fca277f713c8765b6389a72b165f7f4fb8ab8028"
    assert sha256(masked) == "716036b62426d3773f587ebcfbbd98a27760b111f875b9c497bb6e2ee37eb46e"


def test_settings_make_those_bits_as_well() -> None:
    pcm_of_clips, draws, labels, *_ = clips()
    built = front_end(AugmentSettings(shift_ms=20.0, noise_amplitude=0.5, frequency_mask_bins=7), rooms=False)
    by_hand = FrontEnd(
        LogMel(),
        wave_augment=(
            TimeShift(seed=7, max_samples=320, probability=0.8),
            DrawnSilence(bank(), seed=7, silence_label=1, heard=range(100, 1500)),
            BackgroundNoise(bank(), seed=7, max_amplitude=0.5, probability=0.8),
        ),
        feature_augment=(
            SpecAugment(seed=7, time_masks=2, max_time_frames=20, frequency_masks=2, max_frequency_bins=7),
        ),
    )
    assert built.mix is None
    assert torch.equal(built(pcm_of_clips, draws, labels), by_hand(pcm_of_clips, draws, labels))


def test_what_is_off_is_left_out_and_the_clip_is_as_it_was() -> None:
    waves = wave_augmentation(OFF, Sounds(noise=bank()), seed=7, sample_rate_hz=16_000, pad="end")
    assert waves == ()
    assert feature_augmentation(OFF, seed=7) == ()
    plain = FrontEnd(nn.Identity(), wave_augment=waves)
    pcm_of_clips, draws, labels, *_ = clips()
    assert torch.equal(plain(pcm_of_clips, draws, labels), pcm_of_clips.float() / 32_768)
    assert plain.amounts(draws, labels) == {}


def test_a_recording_comes_about_in_this_order() -> None:
    order = [
        Speed,
        Tempo,
        TimeShift,
        Reverb,
        DrawnSilence,
        Mix,
        NoiseAtSnr,
        BackgroundNoise,
        Gain,
        WhiteNoise,
        DropChunks,
    ]
    assert [type(module) for module in front_end(EVERYTHING).wave_augment] == order


@pytest.mark.parametrize("rows", [1, 3, 12, 24])
def test_waveforms_and_shares_have_the_same_bits_however_the_batch_is_cut(rows: int) -> None:
    """Of ranks and accumulation only this is left: in how many rows the global batch is taken."""
    given = clips()
    waves = front_end(WAVES, nn.Identity())
    whole = waves(*given)
    parts = zip(*(one.split(rows) for one in given), strict=True)
    assert torch.equal(torch.cat([waves(*part) for part in parts]), whole)
    mix = waves.mix
    assert mix is not None
    assert torch.equal(torch.cat([mix.shares(part) for part in given[1].split(rows)]), mix.shares(given[1]))
    assert whole.dtype == torch.float32
    assert whole.abs().max() <= 1.0


def test_features_are_the_same_however_the_batch_is_cut() -> None:
    given = clips()
    whole = front_end(EVERYTHING)(*given)
    parts = zip(*(one.split(12) for one in given), strict=True)
    torch.testing.assert_close(torch.cat([front_end(EVERYTHING)(*part) for part in parts]), whole, rtol=0, atol=1e-6)
    assert whole.shape == (CLIPS, 1, 40, SAMPLES // 160 + 1)


def test_a_partner_is_augmented_as_a_draw_of_its_own_and_mixed_in_before_the_noise() -> None:
    pcm_of_clips, draws, labels, partner_pcm, partner_labels = clips()
    both = front_end(WAVES, nn.Identity())
    place = list(both.wave_augment).index(both.mix)  # type: ignore[arg-type]
    before = FrontEnd(nn.Identity(), wave_augment=tuple(both.wave_augment[:place]))  # type: ignore[arg-type]
    wave = before(pcm_of_clips, draws, labels)
    partner_wave = before(partner_pcm, draws + PARTNER, partner_labels)
    wave = both.mix(wave, partner_wave, draws)  # type: ignore[misc]
    for augment in both.wave_augment[place + 1 :]:  # type: ignore[union-attr]
        wave = augment(wave, draws)
    assert torch.equal(both(pcm_of_clips, draws, labels, partner_pcm, partner_labels), wave)
    assert not torch.equal(partner_wave, before(partner_pcm, draws, partner_labels))


def test_nothing_is_done_in_place() -> None:
    given = clips()
    before = [one.clone() for one in given]
    front_end(EVERYTHING)(*given)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


def test_no_value_is_read_back_from_a_device() -> None:
    """On `meta`, a device without values, whatever made the host wait for a GPU would raise."""
    given = [one.to("meta") for one in clips()]
    waves, whole = front_end(WAVES, nn.Identity()), front_end(EVERYTHING)
    mixed = waves.to("meta").waveforms(*given)
    assert (mixed.shape, mixed.dtype, mixed.device.type) == ((CLIPS, SAMPLES), torch.float32, "meta")
    masks = whole.to("meta").feature_augment[0]
    spectra = torch.empty(CLIPS, 1, 40, 11, device="meta")
    assert masks(spectra, given[1]).shape == spectra.shape
    assert waves.mix is not None
    assert waves.mix.shares(given[1]).shape == (CLIPS,)


def test_mixing_without_partners_is_refused() -> None:
    with pytest.raises(AssertionError, match="partners"):
        front_end(EVERYTHING)(*clips()[:3])


def test_amounts_say_what_is_done_to_a_draw_and_to_its_partner() -> None:
    _, draws, labels, _, partner_labels = clips()
    amounts = front_end(EVERYTHING).amounts(draws, labels, partner_labels)
    own = ["speed_percent", "tempo_percent", "shift_samples", "reverb_response", "silence_amplitude"]
    mixed = ["mixup_share", "cutmix_first_samples", "cutmix_samples", *(f"partner_{name}" for name in own)]
    after = ["noise_snr_db", "noise_amplitude", "gain_db", "white_noise_dbfs", "dropped_samples"]
    assert list(amounts) == [*own, *mixed, *after, "time_mask_frames", "frequency_mask_bins"]
    assert all(len(amount) == CLIPS and amount.dtype == torch.float32 for amount in amounts.values())
    assert torch.equal(~amounts["silence_amplitude"].isnan(), labels == 1)
    assert not torch.equal(amounts["shift_samples"].nan_to_num(), amounts["partner_shift_samples"].nan_to_num())


def test_amounts_are_what_is_heard() -> None:
    pcm_of_clips, draws, labels, *_ = clips()
    shifted = front_end(replace(OFF, shift_ms=20.0), nn.Identity(), rooms=False)
    labels = torch.zeros_like(labels)  # no silence
    by = shifted.amounts(draws, labels)["shift_samples"].nan_to_num(0.0).int().tolist()
    for row, clip, later in zip(shifted(pcm_of_clips, draws, labels), pcm_of_clips / 32_768, by, strict=True):
        kept = SAMPLES - abs(later)
        assert torch.equal(row[max(later, 0) :][:kept], clip[max(-later, 0) :][:kept])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shift_probability": 1.5}, "--augment.shift_probability 1.5 is outside"),
        ({"drop_ms": -1.0}, "--augment.drop_ms -1.0 should be 0 or more"),
        ({"speed_percent": 60}, "--augment.speed_percent 60 should be at most 50"),
        ({"gain_min_db": 3.0}, "--augment.gain_min_db 3.0 is above --augment.gain_max_db 0.0"),
        ({"snr_noise_min_db": 30.0}, "--augment.snr_noise_min_db 30.0 is above"),
        ({"mixup_alpha": 0.0}, "--augment.mixup_alpha 0.0 should be above 0"),
        ({"mixup_probability": 0.6, "cutmix_probability": 0.6}, "add up to more than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(changed: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        front_end(replace(AugmentSettings(), **changed))  # type: ignore[arg-type]
