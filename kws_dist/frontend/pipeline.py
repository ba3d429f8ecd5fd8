"""The front end as one callable: int16 PCM and draw numbers in, features out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kws_dist.frontend.chance import PARTNER, pcm_to_wave
from kws_dist.frontend.mix import Mix
from kws_dist.frontend.noise import DrawnSilence
from kws_dist.frontend.shift import TimeShift


class FrontEnd(nn.Module):
    """decode -> waveform augmentation -> features -> feature augmentation, all on the device.

    Each augmentation is a module called as `(tensor, draws)`; `DrawnSilence` takes the labels as well, and `Mix` the
    waveforms of the partners, which are augmented like the clips up to there. For evaluation there are none.
    """

    def __init__(
        self,
        features: nn.Module,
        *,
        wave_augment: tuple[nn.Module, ...] = (),
        feature_augment: tuple[nn.Module, ...] = (),
        teacher_features: nn.Module | None = None,
    ) -> None:
        """`teacher_features`: of a second model, which hears the same augmented waveforms; see `both`."""
        super().__init__()
        self.features = features
        self.wave_augment = nn.ModuleList(wave_augment)
        self.feature_augment = nn.ModuleList(feature_augment)
        self.teacher_features = teacher_features

    @property
    def mix(self) -> Mix | None:
        """What mixes clips with their partners; if there is none, partners are not asked for."""
        return next((augment for augment in self.wave_augment if isinstance(augment, Mix)), None)

    def forward(
        self,
        pcm: Tensor,
        draws: Tensor,
        labels: Tensor,
        partner_pcm: Tensor | None = None,
        partner_labels: Tensor | None = None,
    ) -> Tensor:
        """Turn `pcm` `(B, T)` int16, `draws` and `labels` `(B,)` int64 into `(B, 1, bins, frames)` float32.

        Where there is a `mix`, the partners' PCM `(B, T)` and labels `(B,)` are needed as well.
        """
        with torch.autocast(pcm.device.type, enabled=False):
            return self._augmented_features(self.waveforms(pcm, draws, labels, partner_pcm, partner_labels), draws)

    def both(self, pcm: Tensor, draws: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what `forward` does of the same arguments, and the features of the teacher, if there is one.

        The teacher's are of the same augmented waveforms; nothing in them is masked.
        """
        with torch.autocast(pcm.device.type, enabled=False):
            wave = self.waveforms(pcm, draws, *others)  # pyright: ignore[reportArgumentType]
            # A copy, because raw waveforms as features are the waveform itself, which masks may overwrite.
            of_teacher = self.teacher_features(wave.clone()) if self.teacher_features else None
            return self._augmented_features(wave, draws), of_teacher

    def _augmented_features(self, wave: Tensor, draws: Tensor) -> Tensor:
        features = self.features(wave)
        for augment in self.feature_augment:
            features = augment(features, draws)
        return features

    def waveforms(
        self,
        pcm: Tensor,
        draws: Tensor,
        labels: Tensor,
        partner_pcm: Tensor | None = None,
        partner_labels: Tensor | None = None,
    ) -> Tensor:
        """Return what the features are made of: the augmented waveforms `(B, T)` float32 in [-1, 1]."""
        before, mix, after = self._around_mix()
        wave = _augmented(before, pcm, draws, labels)
        if mix is None:
            return wave
        assert partner_pcm is not None, "mixing needs partners"
        assert partner_labels is not None, "mixing needs the labels of the partners"
        partner_wave = _augmented(before, partner_pcm, draws + PARTNER, partner_labels)
        return _augmented(after, mix(wave, partner_wave, draws), draws, labels)

    def amounts(self, draws: Tensor, labels: Tensor, partner_labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return what is done to each draw, for people to read: `(B,)` or `(B, n)` float32 by name, with its unit.

        Names say the unit as everywhere (`_samples`, `_db`, ...); NaN is where nothing happens.
        """
        before, mix, after = self._around_mix()
        amounts = _amounts(before, draws, labels)
        if mix is not None:
            assert partner_labels is not None, "mixing needs the labels of the partners"
            amounts |= mix.amounts(draws)
            mixed, of_partners = mix.shares(draws) > 0, _amounts(before, draws + PARTNER, partner_labels)
            amounts |= {f"partner_{name}": torch.where(mixed, one, torch.nan) for name, one in of_partners.items()}
        return amounts | _amounts([*after, *self.feature_augment], draws, labels)

    def _around_mix(self) -> tuple[list[nn.Module], Mix | None, list[nn.Module]]:
        augments, mix = list(self.wave_augment), self.mix
        place = len(augments) if mix is None else augments.index(mix)
        return augments[:place], mix, augments[place + 1 :]


def _augmented(augments: Sequence[nn.Module], wave: Tensor, draws: Tensor, labels: Tensor) -> Tensor:
    """Run the augmentations on float32 or int16 `(B, T)`; returns float32."""
    for augment in augments:
        if wave.dtype == torch.int16 and not isinstance(augment, TimeShift):  # which moves half as many bytes of PCM
            wave = pcm_to_wave(wave)
        wave = augment(wave, draws, labels) if isinstance(augment, DrawnSilence) else augment(wave, draws)
    return pcm_to_wave(wave) if wave.dtype == torch.int16 else wave


def _amounts(augments: Sequence[nn.Module], draws: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Join the amounts of the augmentations."""
    amounts: dict[str, Tensor] = {}
    for augment in augments:
        amounts |= augment.amounts(draws, labels) if isinstance(augment, DrawnSilence) else augment.amounts(draws)  # pyright: ignore[reportCallIssue]
    return amounts
