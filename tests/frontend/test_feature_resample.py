"""Resampling on the device: torchaudio's, as a matrix product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kws_dist.frontend._torchaudio import transforms
from kws_dist.frontend.resample import Resample


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(16_000, 8_000), (8_000, 16_000), (16_000, 11_025), (44_100, 16_000), (8_000, 500)]
)
@given(samples=st.integers(1, 3000))
@settings(deadline=None, max_examples=10)
def test_any_clip_at_any_rate_is_resampled_as_torchaudio_does(from_hz: int, to_hz: int, samples: int) -> None:
    torch.manual_seed(samples)
    wave = torch.randn(3, samples)
    wanted = transforms.Resample(from_hz, to_hz)(wave)
    torch.testing.assert_close(Resample(from_hz, to_hz)(wave), wanted, rtol=0, atol=1e-5)


def test_a_tone_keeps_its_pitch() -> None:
    time = torch.arange(16_000) / 16_000
    made = Resample(16_000, 8_000)(torch.sin(2 * torch.pi * 440 * time)[None])
    wanted = torch.sin(2 * torch.pi * 440 * torch.arange(8_000) / 8_000)[None]
    torch.testing.assert_close(made[:, 100:-100], wanted[:, 100:-100], rtol=0, atol=2e-3)
