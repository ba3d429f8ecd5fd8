"""What only a CUDA device can show of the augmentation: `pytest -m gpu`."""

import pytest
import torch
from test_pipeline import WAVES, clips, front_end
from torch import nn

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_augmented_waveforms_and_shares_have_the_bits_of_the_cpu_and_nobody_waits_for_the_device() -> None:
    given = clips()
    wanted, on_gpu = front_end(WAVES, nn.Identity())(*given), [one.cuda() for one in given]
    waves = front_end(WAVES, nn.Identity()).cuda()
    waves(*on_gpu)  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        heard = waves(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(heard.cpu(), wanted)
    assert waves.mix is not None
    assert torch.equal(waves.mix.shares(on_gpu[1]).cpu(), waves.mix.cpu().shares(given[1]))
