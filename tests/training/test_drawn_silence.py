"""Where silence is drawn anew in training, and where clips of silence stay as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpus import files, pack, tone, wav_file

from kws_dist.config import AugmentSettings, Config, DataConfig
from kws_dist.corpus.clip import SILENCE_WORD
from kws_dist.corpus.speech_commands import SpeechCommands
from kws_dist.data.sampler import BatchSlice, build_sampler
from kws_dist.data.workers import DeviceWorker
from kws_dist.frontend.augment import DrawnSilence
from kws_dist.frontend.pipeline import FrontEnd
from kws_dist.shards.plan import make_plan
from kws_dist.shards.write import write_dataset
from kws_dist.training.data import Data, open_data
from kws_dist.training.front_end import evaluation_front_end, training_front_end

CPU = torch.device("cpu")
OFF = AugmentSettings(shift_probability=0.0, noise_probability=0.0, time_masks=0, frequency_masks=0)


def opened(folder: Path, *, silence: bool, **settings: object) -> tuple[Config, Data]:
    """A dataset of three words and silence: by the 12-class rule, or recordings that somebody made."""
    noise = {"_background_noise_/hum.wav": wav_file(tone(7, 200_000))}
    own = {f"_silence_/{i:08x}_nohash_0.wav": wav_file(tone(i)) for i in range(12)}
    archive = pack(folder / "a.tar.gz", files(noises=0) | noise | ({} if silence else own))
    source = SpeechCommands(archive, silence=silence)
    write_dataset(source, make_plan(source, shard_clips=50, seed=0), folder / "shards", task="t", command=[])
    config = Config(data=DataConfig(shards=str(folder / "shards"), **settings), augment=OFF)  # type: ignore[arg-type]
    return config, open_data(config.data, CPU, ("train", "val", "test"))


def drawn(front_end: FrontEnd) -> list[DrawnSilence]:
    return [module for module in front_end.wave_augment if isinstance(module, DrawnSilence)]


def test_training_hears_new_silence_and_validation_the_stored_clips(tmp_path: Path) -> None:
    config, data = opened(tmp_path, silence=True)
    assert data.dataset.words[0] == SILENCE_WORD
    front_end = training_front_end(config, data)
    assert len(drawn(front_end)) == 1
    assert drawn(evaluation_front_end(config.features, 16_000)) == []
    waves = FrontEnd(torch.nn.Identity(), wave_augment=tuple(front_end.wave_augment))
    store = data.stores["train"]
    sampler = build_sampler(store.rows.label, seed=0, balance=1.0, global_batch=32)
    batch = next(DeviceWorker(store, sampler, waves, BatchSlice(global_batch=32), CPU).batches(0, 1))
    stored = store.gather(batch.draws.clip).float() / 2**15
    changed = (batch.features != stored).any(dim=1)
    assert torch.equal(changed, batch.labels == 0)
    noise = tone(7, 200_000)[:160_000].astype(np.float64) / 2**15
    for wave in batch.features[changed].double().numpy():
        assert np.abs(wave).max() <= np.abs(noise).max()
    assert len({wave.numpy().tobytes() for wave in batch.features[changed]}) == 8  # of 3 stored clips


def test_recordings_of_silence_that_somebody_made_are_not_replaced(tmp_path: Path) -> None:
    config, data = opened(tmp_path, silence=False)
    assert SILENCE_WORD in data.dataset.words
    assert drawn(training_front_end(config, data)) == []


@pytest.mark.parametrize(("pad", "first"), [("end", 0), ("center", 4000)])
def test_silence_in_a_longer_clip_is_padded_as_the_stored_one_is(tmp_path: Path, pad: str, first: int) -> None:
    config, data = opened(tmp_path, silence=True, clip_seconds=1.5, pad=pad)
    (silence,) = drawn(training_front_end(config, data))
    stored = data.stores["train"].gather(np.flatnonzero(data.stores["train"].rows.label == 0))
    assert silence.heard.nonzero().flatten().tolist() == list(range(first, first + 16_000))
    assert not stored[:, ~silence.heard].any()
    assert stored[:, silence.heard].any()
