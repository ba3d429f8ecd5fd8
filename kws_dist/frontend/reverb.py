"""Reverberation: the word is spoken in a room."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kws_dist import keyed
from kws_dist.frontend.chance import PCM_SCALE, Purpose, changed, to_pcm_scale, where_it_happens

_BEFORE_DIRECT_SAMPLES = 16
_RESPONSE_SCALE = 16_384.0


class Reverb(nn.Module):
    """Convolve each clip with one of several room impulse responses, each equally likely.

    Responses are aligned at their largest sample, taken for the direct sound, so the word does not move; 1 ms before it
    is kept, for it may be spread. They are scaled to unit energy, so a clip is about as loud as before. The convolution
    is by Fourier transforms in float64 of samples and responses rounded to integers: the result is within 0.01 of an
    integer, and rounded to it has the same bits in any batch. Ko et al., "A study on data augmentation of reverberant
    speech for robust speech recognition", ICASSP 2017.
    """

    responses: Tensor

    def __init__(self, responses: Sequence[Tensor], *, seed: int, probability: float, clip_samples: int) -> None:
        """`responses`: float `(samples,)` each, at the clips' sampling rate, not all zero; cut to a clip's length."""
        super().__init__()
        self.seed, self.probability = seed, probability
        prepared = [_prepared(response, clip_samples) for response in responses]
        bank = nn.utils.rnn.pad_sequence(prepared, batch_first=True) if prepared else torch.zeros(0, 1)
        self.register_buffer("responses", bank.to(torch.int16), persistent=False)
        self.fft_samples = _fft_samples(clip_samples + bank.shape[1])

    def forward(self, wave: Tensor, draws: Tensor) -> Tensor:
        """Reverberate `wave` `(B, T)`; same shape, clamped to [-1, 1]."""
        if len(self.responses) == 0 or self.probability == 0:
            return wave
        happens, which = self._drawn(draws)
        return changed(wave, happens, lambda rows: self._convolved(wave[rows], which[rows]))

    def amounts(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the number of each draw's response."""
        happens, which = self._drawn(draws)
        return {"reverb_response": where_it_happens(happens & (len(self.responses) > 0), which)}

    def _drawn(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        chance, place = keyed.uniforms(self.seed, Purpose.REVERB, draws, 2).unbind(1)
        return chance < self.probability, (place * len(self.responses)).long()

    def _convolved(self, wave: Tensor, which: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(to_pcm_scale(wave), self.fft_samples)
        spectrum *= torch.fft.rfft(self.responses[which].to(torch.float64), self.fft_samples)
        convolved = torch.fft.irfft(spectrum, self.fft_samples)
        convolved = convolved[:, _BEFORE_DIRECT_SAMPLES:][:, : wave.shape[1]].round()
        return convolved.mul_(1.0 / (PCM_SCALE * _RESPONSE_SCALE)).to(torch.float32).clamp_(-1.0, 1.0)


def _prepared(response: Tensor, clip_samples: int) -> Tensor:
    """Align, cut and scale a response, rounded to integers: `(samples,)` float64, its largest at sample 16."""
    response = response.to(torch.float64)
    assert response.any(), "a response of zeros would make any clip silent"
    begin = int(response.abs().argmax()) - _BEFORE_DIRECT_SAMPLES
    aligned = nn.functional.pad(response[max(begin, 0) :], (max(-begin, 0), 0))[:clip_samples]
    return (aligned / aligned.square().sum().sqrt() * _RESPONSE_SCALE).round()


def _fft_samples(at_least: int) -> int:
    """Return the next 2^k, 3 * 2^k or 5 * 2^k, which transforms fast."""
    return min(factor << max(-(-at_least // factor) - 1, 0).bit_length() for factor in (1, 3, 5))
