"""The front end as one callable: int16 PCM and draw numbers in, features out."""

from torch import Tensor, nn

from kws_dist.frontend.augment import DrawnSilence, pcm_to_wave


class FrontEnd(nn.Module):
    """decode -> waveform augmentation -> features -> feature augmentation, all on the device.

    Each augmentation is a module called as `(tensor, draws)`, `DrawnSilence` also with the labels; for evaluation
    there are none.
    """

    def __init__(
        self,
        features: nn.Module,
        *,
        wave_augment: tuple[nn.Module, ...] = (),
        feature_augment: tuple[nn.Module, ...] = (),
    ) -> None:
        super().__init__()
        self.features = features
        self.wave_augment = nn.ModuleList(wave_augment)
        self.feature_augment = nn.ModuleList(feature_augment)

    def forward(self, pcm: Tensor, draws: Tensor, labels: Tensor) -> Tensor:
        """Turn `pcm` `(B, T)` int16, `draws` and `labels` `(B,)` int64 into `(B, 1, bins, frames)` float32."""
        wave = pcm_to_wave(pcm)
        for augment in self.wave_augment:
            wave = augment(wave, draws, labels) if isinstance(augment, DrawnSilence) else augment(wave, draws)
        features = self.features(wave)
        for augment in self.feature_augment:
            features = augment(features, draws)
        return features
