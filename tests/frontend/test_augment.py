"""Augmentation: each does what its name says, within its range, and is a pure function of (seed, draw)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kws_dist.data import sampler
from kws_dist.frontend.augment import (
    BackgroundNoise,
    DrawnSilence,
    DropChunks,
    Gain,
    NoiseAtSnr,
    NoiseBank,
    Purpose,
    Reverb,
    SpecAugment,
    Speed,
    Tempo,
    TimeShift,
    WhiteNoise,
    pcm_to_wave,
)

MANY = torch.arange(4000)
SAMPLES = 400


@pytest.fixture(scope="module")
def recordings() -> list[Tensor]:
    """Noise whose samples say where they are from: 1.. in one recording, 10001.. in the other."""
    one, two = torch.arange(1, 3001), torch.arange(10_001, 10_501)
    return [one.to(torch.int16), two.to(torch.int16)]


def shifts_of(shift: TimeShift, draws: Tensor, samples: int = SAMPLES) -> Tensor:
    """How far an impulse in the middle of a clip moves: `(B,)` samples, later is positive."""
    wave = torch.zeros(len(draws), samples)
    wave[:, samples // 2] = 1.0
    moved = shift(wave, draws)
    assert torch.equal(moved.sum(dim=1), torch.ones(len(draws)))
    return moved.argmax(dim=1) - samples // 2


def test_a_shift_moves_every_sample_by_the_same_and_fills_with_zeros() -> None:
    shift = TimeShift(seed=1, max_samples=30, probability=1.0)
    wave = torch.arange(1.0, SAMPLES + 1).repeat(50, 1)
    for row, by in zip(shift(wave, MANY[:50]), shifts_of(shift, MANY[:50]).tolist(), strict=True):
        wanted = torch.zeros(SAMPLES)
        wanted[max(by, 0) : SAMPLES + min(by, 0)] = wave[0, max(-by, 0) : SAMPLES - max(by, 0)]
        assert torch.equal(row, wanted)


def test_shifts_take_every_value_of_their_range_about_equally_often() -> None:
    shifts = shifts_of(TimeShift(seed=1, max_samples=5, probability=1.0), MANY)
    counts = torch.bincount(shifts + 5, minlength=11)
    assert len(counts) == 11
    assert ((counts - 4000 / 11) ** 2 / (4000 / 11)).sum() < 35  # 10 degrees of freedom


def test_the_share_of_shifted_clips_is_the_probability() -> None:
    shifts = shifts_of(TimeShift(seed=1, max_samples=100, probability=0.8), MANY)
    assert abs((shifts != 0).float().mean() - 0.8 * 200 / 201) < 0.03
    assert shifts.abs().max() <= 100


def test_a_shift_may_be_as_long_as_the_clip() -> None:
    shift = TimeShift(seed=0, max_samples=SAMPLES, probability=1.0)
    assert shift(torch.ones(200, SAMPLES), MANY[:200]).sum(dim=1).min() < SAMPLES * 0.05


def noise_of(recordings: list[Tensor], **changed: float) -> BackgroundNoise:
    given = {"seed": 1, "max_amplitude": 0.5, "probability": 1.0} | changed
    return BackgroundNoise(NoiseBank(recordings, clip_samples=SAMPLES), **given)  # type: ignore[arg-type]


def test_noise_is_a_stretch_of_one_recording_at_one_amplitude(recordings: list[Tensor]) -> None:
    """Two neighbouring samples of noise differ by the amplitude, so amplitude and place can be read off the sum."""
    clean = torch.linspace(-0.1, 0.1, SAMPLES).repeat(len(MANY), 1)
    added = noise_of(recordings)(clean, MANY).double() - clean
    amplitude = (added[:, -1] - added[:, 0]) / (SAMPLES - 1) * 2**15
    assert amplitude.min() >= 0
    assert amplitude.max() <= 0.5 + 1e-4
    assert abs(amplitude.mean() - 0.25) < 0.01
    heard = amplitude > 0.05  # below, the place cannot be told in float32
    first = (added[:, 0] * 2**15 / amplitude)[heard].round()
    rebuilt = (first[:, None] + torch.arange(SAMPLES)) * amplitude[heard, None] / 2**15
    torch.testing.assert_close(added[heard], rebuilt, rtol=0, atol=2e-5)
    in_one = (first >= -3) & (first <= 2601 + 3)
    in_two = (first >= 10_001 - 30) & (first <= 10_101 + 30)
    assert (in_one | in_two).all()
    assert abs(in_two.double().mean() - 0.5) < 0.04  # recordings are equally likely, however long
    assert first[in_one].min() < 60
    assert first[in_one].max() > 2540


def test_noise_at_a_known_amplitude_is_added_sample_by_sample() -> None:
    """One recording, just as long as a clip, at full scale: what is added is the amplitude itself."""
    constant = torch.full((SAMPLES,), -(2**15), dtype=torch.int16)
    added = noise_of([constant], max_amplitude=1.0)(torch.zeros(len(MANY), SAMPLES), MANY)
    assert torch.equal(added, added[:, :1].expand(-1, SAMPLES))
    amplitude = -added[:, 0]
    assert torch.equal(amplitude * 2**24, (amplitude * 2**24).round())  # the 24 bits that were drawn, unscaled
    counts = torch.histc(amplitude, bins=10, min=0.0, max=1.0)
    assert counts.sum() == len(MANY)
    assert ((counts - 400) ** 2 / 400).sum() < 35  # 9 degrees of freedom
    half = noise_of([constant], max_amplitude=0.5)(torch.zeros(len(MANY), SAMPLES), MANY)
    assert torch.equal(half, added / 2)


def test_the_share_of_noisy_clips_is_the_probability(recordings: list[Tensor]) -> None:
    noisy = noise_of(recordings, probability=0.3)(torch.zeros(len(MANY), SAMPLES), MANY).any(dim=1)
    assert abs(noisy.float().mean() - 0.3) < 0.03


def test_what_is_too_loud_is_clipped_at_full_scale(recordings: list[Tensor]) -> None:
    loud = noise_of(recordings, max_amplitude=9.0)(torch.full((100, SAMPLES), 0.99), MANY[:100])
    assert loud.max() == 1.0
    assert loud.min() >= -1.0


def test_recordings_shorter_than_a_clip_are_left_alone(recordings: list[Tensor]) -> None:
    short, wave = recordings[0][: SAMPLES - 1], torch.rand(5, SAMPLES)
    assert torch.equal(noise_of([short])(wave, MANY[:5]), wave)
    assert torch.equal(noise_of([])(wave, MANY[:5]), wave)
    assert torch.equal(noise_of([short, *recordings])(wave, MANY[:5]), noise_of(recordings)(wave, MANY[:5]))


def silence_of(recordings: list[Tensor], *, seed: int = 1, heard: range = range(SAMPLES)) -> DrawnSilence:
    bank = NoiseBank(recordings, clip_samples=SAMPLES)
    return DrawnSilence(bank, seed=seed, silence_label=2, heard=heard)


def test_clips_of_silence_are_stretches_of_one_recording_at_one_volume(recordings: list[Tensor]) -> None:
    """As with added noise, the volume and the place can be read off two samples."""
    stored = torch.full((len(MANY), SAMPLES), 0.25)
    drawn = silence_of(recordings)(stored, MANY, torch.full_like(MANY, 2)).double() * 2**15
    volume = (drawn[:, -1] - drawn[:, 0]) / (SAMPLES - 1)
    assert volume.min() >= 0
    assert volume.max() < 1 + 1e-4
    counts = torch.histc(volume, bins=10, min=0.0, max=1.0)
    assert ((counts - 400) ** 2 / 400).sum() < 35  # 9 degrees of freedom
    loud = volume > 0.05
    first = (drawn[:, 0] / volume)[loud].round()
    rebuilt = (first[:, None] + torch.arange(SAMPLES)) * volume[loud, None]
    torch.testing.assert_close(drawn[loud], rebuilt, rtol=1e-4, atol=0.1)
    in_one = (first >= 1) & (first <= 2601)
    in_two = (first >= 10_001 - 30) & (first <= 10_101 + 30)
    assert (in_one | in_two).all()
    assert abs(in_two.double().mean() - 0.5) < 0.04


def test_only_clips_of_silence_are_drawn(recordings: list[Tensor]) -> None:
    torch.manual_seed(0)
    wave, labels = torch.rand(len(MANY), SAMPLES), MANY % 5
    drawn = silence_of(recordings)(wave, MANY, labels)
    assert torch.equal(drawn[labels != 2], wave[labels != 2])
    assert (drawn[labels == 2] != wave[labels == 2]).all(dim=1).all()


def test_silence_is_a_function_of_seed_and_draw_whatever_the_batch(recordings: list[Tensor]) -> None:
    wave, labels = torch.rand(40, SAMPLES), MANY[:40] % 3
    silence, draws = silence_of(recordings), MANY[:40] + 1000
    whole, order = silence(wave, draws, labels), torch.randperm(40)
    assert torch.equal(silence(wave[order], draws[order], labels[order]), whole[order])
    assert torch.equal(
        torch.cat([silence(wave[i : i + 1], draws[i : i + 1], labels[i : i + 1]) for i in MANY[:40]]), whole
    )
    drawn = labels == 2
    for other in (silence(wave, draws + 40, labels), silence_of(recordings, seed=2)(wave, draws, labels)):
        assert (other[drawn] != whole[drawn]).any(dim=1).all()


def test_silence_is_padded_as_stored_silence_is(recordings: list[Tensor]) -> None:
    drawn = silence_of(recordings, heard=range(100, 300))(torch.rand(50, SAMPLES), MANY[:50], torch.full((50,), 2))
    assert not drawn[:, :100].any()
    assert not drawn[:, 300:].any()
    assert drawn[:, 100:300].any(dim=1).all()


def test_without_usable_noise_stored_silence_stays(recordings: list[Tensor]) -> None:
    wave, labels = torch.rand(9, SAMPLES), torch.full((9,), 2)
    for unusable in ([], [recordings[0][: SAMPLES - 1]]):
        assert torch.equal(silence_of(unusable)(wave, MANY[:9], labels), wave)


def spec_augment(**changed: int) -> SpecAugment:
    given = {"time_masks": 2, "max_time_frames": 20, "frequency_masks": 2, "max_frequency_bins": 7} | changed
    return SpecAugment(seed=1, **given)


@given(masks=st.integers(1, 3), width=st.integers(0, 30), bins=st.integers(1, 20), frames=st.integers(1, 25))
@settings(deadline=None, max_examples=60)
def test_masked_bands_are_whole_no_wider_than_asked_and_hold_the_clips_mean(
    masks: int, width: int, bins: int, frames: int
) -> None:
    torch.manual_seed(bins)
    clean = torch.randn(30, 1, bins, frames)
    for changed, dim in (({"frequency_masks": 0}, -1), ({"time_masks": 0}, -2)):
        names = {"time_masks": masks, "frequency_masks": masks, "max_time_frames": width, "max_frequency_bins": width}
        masked = spec_augment(**names | changed)(clean, MANY[:30])
        differs = masked != clean
        along, across = (differs.all(dim=2), differs.any(dim=2)) if dim == -1 else (differs.all(3), differs.any(3))
        assert torch.equal(along, across)
        assert along.sum(dim=-1).max() <= min(masks * width, clean.shape[dim])
        fill = clean.mean(dim=(1, 2, 3), keepdim=True).expand_as(clean)
        torch.testing.assert_close(masked[differs], fill[differs])


def test_mask_widths_and_places_are_spread_evenly() -> None:
    clean = torch.arange(40.0 * 50).view(1, 1, 40, 50).repeat(len(MANY), 1, 1, 1)
    masked = spec_augment(time_masks=1, frequency_masks=0)(clean, MANY) != clean
    frames = masked[:, 0, 0]
    widths = torch.bincount(frames.sum(dim=1), minlength=21)
    assert len(widths) == 21
    assert ((widths - 4000 / 21) ** 2 / (4000 / 21)).sum() < 50  # 20 degrees of freedom
    starts = frames.float().argmax(dim=1)[frames.sum(dim=1) == 20]
    assert set(starts.tolist()) == set(range(31))


def test_frames_and_mels_are_both_masked_with_the_mean_of_the_whole_clip() -> None:
    torch.manual_seed(0)
    clean = torch.randn(200, 1, 40, 101)
    both = spec_augment()(clean, MANY[:200])
    differs = both != clean
    assert differs.all(dim=2).any()
    assert differs.all(dim=3).any()
    fill = clean.mean(dim=(1, 2, 3), keepdim=True).expand_as(clean)
    torch.testing.assert_close(both[differs], fill[differs])


def all_of_them(seed: int, recordings: list[Tensor], samples: int = SAMPLES) -> list[tuple[nn.Module, Tensor]]:
    """Each augmentation with an input of 40 clips, of a length that fits no vector register."""
    torch.manual_seed(5)
    wave, spectra = torch.rand(40, samples) - 0.5, torch.randn(40, 1, 40, 101)
    wave[3] = 0.0
    masks = SpecAugment(
        seed=seed,
        time_masks=2,
        max_time_frames=20,
        frequency_masks=1,
        max_frequency_bins=7,
        rectangles=2,
        max_rectangle_frames=9,
        max_rectangle_bins=5,
    )
    responses = [torch.randn(300) * torch.logspace(0, -3, 300) for _ in range(4)]
    bank = NoiseBank([torch.cat([*recordings, *recordings])], clip_samples=samples)
    sometimes = {"seed": seed, "probability": 0.7}
    waves: list[nn.Module] = [
        Speed(max_percent=15, **sometimes),
        Tempo(max_percent=15, **sometimes),
        TimeShift(max_samples=100, **sometimes),
        Reverb(responses, clip_samples=samples, **sometimes),
        BackgroundNoise(bank, max_amplitude=0.5, **sometimes),
        NoiseAtSnr(bank, min_db=0, max_db=15, **sometimes),
        Gain(min_db=-10, max_db=10, **sometimes),
        WhiteNoise(min_db=-60, max_db=-20, clip_samples=samples, **sometimes),
        DropChunks(chunks=3, max_samples=50, **sometimes),
    ]
    return [(masks, spectra), *((module, wave) for module in waves)]


def test_augmentation_is_a_function_of_seed_and_draw_alone(recordings: list[Tensor]) -> None:
    """Whatever the batch, its order, what was drawn before, and torch's own generator."""
    draws = torch.arange(10**12, 10**12 + 40)
    order = torch.randperm(40)
    for module, clean in all_of_them(3, recordings, 1600):
        whole = module(clean, draws)
        torch.manual_seed(99)
        assert torch.equal(module(clean[order], draws[order]), whole[order]), module
        assert torch.equal(torch.cat([module(clean[i : i + 1], draws[i : i + 1]) for i in range(40)]), whole)
    for (module, clean), (other, _) in zip(*(all_of_them(seed, recordings, 1600) for seed in (3, 4)), strict=True):
        assert not torch.equal(module(clean, draws), other(clean, draws))
        assert not torch.equal(module(clean, draws), module(clean, draws + 40))


@pytest.mark.parametrize("samples", [400, 1600, 3001])
def test_a_row_has_the_same_bits_in_a_batch_of_any_size(recordings: list[Tensor], samples: int) -> None:
    """Also where it lies in memory as no library aligns it, and on several threads."""
    draws = torch.arange(40)
    for module, clean in all_of_them(3, recordings, samples):
        whole = module(clean, draws)
        assert whole.dtype == torch.float32
        for rows in (1, 3, 8, 40):
            for part in (slice(start, start + rows) for start in range(0, 41 - rows, 7)):
                assert torch.equal(module(clean[part], draws[part]), whole[part]), (module, rows)
        threads = torch.get_num_threads()
        torch.set_num_threads(3 - threads if threads < 3 else 1)
        assert torch.equal(module(clean, draws), whole), module
        torch.set_num_threads(threads)


def test_waveforms_stay_within_full_scale_and_untouched_clips_as_they_are(recordings: list[Tensor]) -> None:
    for module, clean in all_of_them(3, recordings, 1600)[1:]:
        loud = (clean * 2.0).clamp(-1.0, 1.0)
        changed = module(loud, MANY[:40])
        assert changed.abs().max() <= 1.0
        assert changed.isfinite().all()
        (amount,) = module.amounts(MANY[:40]).values()  # pyright: ignore[reportCallIssue]
        happens = ~amount.reshape(40, -1).isnan().any(dim=1)
        assert torch.equal(changed[~happens], loud[~happens])
        assert 15 < happens.sum() < 38
        assert (changed[happens] != loud[happens]).any(dim=1).sum() > happens.sum() / 2


def test_what_is_switched_off_changes_nothing(recordings: list[Tensor]) -> None:
    torch.manual_seed(0)
    wave, spectra = torch.rand(20, SAMPLES) - 0.5, torch.randn(20, 1, 8, 9)
    bank = NoiseBank(recordings, clip_samples=SAMPLES)
    off = [
        TimeShift(seed=1, max_samples=50, probability=0.0),
        TimeShift(seed=1, max_samples=0, probability=1.0),
        noise_of(recordings, probability=0.0),
        noise_of(recordings, max_amplitude=0.0),
        NoiseAtSnr(bank, seed=1, min_db=0, max_db=9, probability=0.0),
        NoiseAtSnr(NoiseBank([], clip_samples=SAMPLES), seed=1, min_db=0, max_db=9, probability=1.0),
        Speed(seed=1, max_percent=0, probability=1.0),
        Speed(seed=1, max_percent=15, probability=0.0),
        Tempo(seed=1, max_percent=0, probability=1.0),
        Tempo(seed=1, max_percent=15, probability=0.0),
        Reverb([], seed=1, probability=1.0, clip_samples=SAMPLES),
        Reverb([torch.ones(9)], seed=1, probability=0.0, clip_samples=SAMPLES),
        Gain(seed=1, min_db=0.0, max_db=0.0, probability=1.0),
        Gain(seed=1, min_db=-9.0, max_db=9.0, probability=0.0),
        WhiteNoise(seed=1, min_db=-90, max_db=-46, probability=0.0, clip_samples=SAMPLES),
        DropChunks(seed=1, chunks=0, max_samples=50, probability=1.0),
        DropChunks(seed=1, chunks=2, max_samples=0, probability=1.0),
        DropChunks(seed=1, chunks=2, max_samples=50, probability=0.0),
    ]
    for module in off:
        assert torch.equal(module(wave, MANY[:20]), wave)
    for changed in ({"time_masks": 0, "frequency_masks": 0}, {"max_time_frames": 0, "max_frequency_bins": 0}):
        assert torch.equal(spec_augment(**changed)(spectra, MANY[:20]), spectra)


def test_what_happens_to_a_draw_says_nothing_about_what_else_does(recordings: list[Tensor]) -> None:
    """Neither whether something happens, nor how much."""
    modules = [module for module, _ in all_of_them(1, recordings)[1:]]
    drawn = [module.amounts(MANY) for module in modules]  # pyright: ignore[reportCallIssue]
    masks = spec_augment(time_masks=1, frequency_masks=1).amounts(MANY)
    amounts = [amount.reshape(len(MANY), -1)[:, 0] for one in [*drawn, masks] for amount in one.values()]
    assert len(amounts) == len(modules) + 2
    happened = torch.stack([~amount.isnan() for amount in amounts[: len(modules)]]).double()
    for columns in (happened, torch.stack([amount.nan_to_num(amount.nanmean()) for amount in amounts]).double()):
        correlation = torch.corrcoef(columns) - torch.eye(len(columns))
        assert correlation.abs().max() < 4.5 / len(MANY) ** 0.5


def test_every_use_of_random_numbers_has_a_key_of_its_own() -> None:
    uses = [*Purpose.__members__.values(), sampler._SLOT, sampler._PASS, sampler._EPOCH, sampler._PARTNER]
    assert len(set(uses)) == len(uses)


def test_inputs_are_left_as_they_are(recordings: list[Tensor]) -> None:
    for module, clean in all_of_them(3, recordings):
        before = clean.clone()
        module(clean, MANY[:40])
        assert torch.equal(clean, before)


def test_full_scale_pcm_is_one() -> None:
    assert pcm_to_wave(torch.tensor([[-(2**15), 2**14]], dtype=torch.int16)).tolist() == [[-1.0, 0.5]]
