"""Dropped chunks of the waveform, and rectangles of the features; the bands of SpecAugment are in test_augment."""

import torch

from kws_dist.frontend.masks import DropChunks, SpecAugment

MANY = torch.arange(4000)
SAMPLES = 400


def test_dropped_chunks_are_zeros_of_any_width_up_to_the_longest_and_anywhere() -> None:
    drop = DropChunks(seed=1, chunks=1, max_samples=50, probability=0.8)
    dropped = drop(torch.ones(len(MANY), SAMPLES), MANY) == 0
    width = drop.amounts(MANY)["dropped_samples"][:, 0]
    assert abs(width.isnan().double().mean() - 0.2) < 0.03
    assert torch.equal(dropped.sum(dim=1).float(), width.nan_to_num(0.0))
    steps = dropped.int().diff(dim=1, prepend=torch.zeros(len(MANY), 1, dtype=torch.int32))
    assert (steps == 1).sum(dim=1).max() == 1  # in one piece
    counts = torch.bincount(width[~width.isnan()].long(), minlength=51)
    assert len(counts) == 51
    assert ((counts - 3200 / 51) ** 2 / (3200 / 51)).sum() < 95  # 50 degrees of freedom
    covered = dropped.double().mean(dim=0)
    assert covered[100:300].std() < 0.1 * covered[100:300].mean()


def test_so_many_chunks_are_dropped() -> None:
    drop = DropChunks(seed=1, chunks=3, max_samples=20, probability=1.0)
    dropped = drop(torch.ones(len(MANY), SAMPLES), MANY) == 0
    steps = dropped.int().diff(dim=1, prepend=torch.zeros(len(MANY), 1, dtype=torch.int32))
    pieces = torch.bincount((steps == 1).sum(dim=1), minlength=4)
    assert len(pieces) == 4
    assert pieces[3] > 0.7 * len(MANY)  # sometimes two overlap, or one is empty
    assert dropped.sum(dim=1).max() <= 60


def test_a_chunk_longer_than_the_clip_is_the_clip() -> None:
    drop = DropChunks(seed=1, chunks=1, max_samples=9 * SAMPLES, probability=1.0)
    left = drop(torch.ones(500, SAMPLES), MANY[:500]).sum(dim=1)
    assert left.min() == 0
    assert left.max() == SAMPLES


def test_rectangles_hold_the_clips_mean_and_are_no_larger_than_asked() -> None:
    torch.manual_seed(0)
    clean = torch.randn(1, 1, 40, 101).repeat(500, 1, 1, 1)
    one = SpecAugment(seed=1, rectangles=1, max_rectangle_frames=25, max_rectangle_bins=15)
    masked = one(clean, MANY[:500])
    differs = (masked != clean)[:, 0]
    torch.testing.assert_close(masked[differs[:, None]], clean.mean().expand(int(differs.sum())))
    bins, frames = differs.any(dim=2), differs.any(dim=1)
    assert torch.equal(differs, bins[:, :, None] & frames[:, None])
    assert bins.sum(dim=1).max() == 15
    assert frames.sum(dim=1).max() == 25
    several = SpecAugment(seed=1, rectangles=5, max_rectangle_frames=25, max_rectangle_bins=15)
    assert 3 < (several(clean, MANY[:500]) != clean).double().mean() / differs.double().mean() < 5
