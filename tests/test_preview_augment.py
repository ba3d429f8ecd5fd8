"""`tools/preview_augment.py`: a page on which one hears just what a training with these settings hears."""

import base64
import io
import runpy
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from launching import environment
from matplotlib import image

from kws_dist.augment_page import describe, write_page
from kws_dist.augment_preview import Heard, find_draws
from kws_dist.config import parse
from kws_dist.data.sampler import build_sampler
from kws_dist.training.data import open_data
from kws_dist.training.draws import training_sampler
from kws_dist.training.front_end import training_front_end

TOOL = Path(__file__).parents[1] / "tools" / "preview_augment.py"
CPU = torch.device("cpu")


class Page(HTMLParser):
    """What is on a page: texts and addresses, by the tag around them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.addresses: dict[str, list[str]] = {}
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.texts.setdefault(tag, []).append("")
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.setdefault(tag, []).append(value or "")

    def handle_data(self, data: str) -> None:
        if self._tag:
            self.texts[self._tag][-1] += data

    def sounds(self) -> list[np.ndarray]:
        """The samples of all sounds, int16."""
        return [soundfile.read(io.BytesIO(content), dtype="int16")[0] for content in self._contents("audio")]

    def pictures(self) -> list[np.ndarray]:
        return [image.imread(io.BytesIO(content), format="png") for content in self._contents("img")]

    def _contents(self, tag: str) -> list[bytes]:
        return [base64.b64decode(address.partition(";base64,")[2]) for address in self.addresses[tag]]


def run(*arguments: object) -> str:
    """Run the tool in a process of its own and return what it says."""
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the tool in this process, where torch is loaded already."""
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    return runpy.run_path(str(TOOL))["main"]()


def test_the_page_lets_one_hear_the_draws_of_a_training(tiny_dataset: Path, tmp_path: Path) -> None:
    """Sample by sample, with everything on, in one file that needs no other."""
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    soundfile.write(rooms / "hall.wav", np.geomspace(0.5, 1e-4, 400), 16_000)
    settings = ["--data.shards", str(tiny_dataset), "--data.clip_seconds", "0.1", "--seed", "3"]
    for name, value in {
        "speed_percent": 15, "tempo_percent": 15, "reverb_folder": rooms, "mixup_probability": 0.4,
        "cutmix_probability": 0.4, "gain_min_db": -6, "snr_noise_probability": 0.5, "white_noise_probability": 0.5,
        "drop_chunks": 1, "frequency_mask_bins": 5,
    }.items():  # fmt: skip
        settings += [f"--augment.{name}", str(value)]
    out = tmp_path / "page.html"
    assert "5 draws" in run(*settings, "--draws", 5, "--first", 40, "--out", out)
    page = Page(out)
    assert all(address.startswith("data:") for addresses in page.addresses.values() for address in addresses)
    assert len(page.pictures()) == len(page.sounds()) == 10
    assert all(picture.std() > 0.05 for picture in page.pictures())

    config = parse(settings)
    data = open_data(config.data, CPU, ("train",))
    store = data.stores["train"]
    sampler = training_sampler(config, store.rows, data.dataset.words, streams=False)
    numbers = np.arange(40, 45)
    drawn, partners = sampler.draws(numbers), sampler.partners(numbers)
    labels, partner_labels = (torch.from_numpy(store.rows.label[clip]) for clip in (drawn.clip, partners))
    pcm, draws = store.gather(drawn.clip), torch.from_numpy(numbers)
    front_end = training_front_end(config, data)
    waves = front_end.waveforms(pcm, draws, labels, store.gather(partners), partner_labels)
    heard = (waves * 32_768).round().clamp(-32_768, 32_767).to(torch.int16)
    for row, (before, after) in enumerate(zip(page.sounds()[::2], page.sounds()[1::2], strict=True)):
        np.testing.assert_array_equal(before, pcm[row].numpy())
        np.testing.assert_array_equal(after, heard[row].numpy())
    (shift,) = (
        amount for name, amount in front_end.amounts(draws, labels, partner_labels).items() if name == "shift_samples"
    )
    shown = [text for text in page.texts["li"] if text.startswith("shift ")]
    assert shown == [f"shift {one / 16:.1f} ms" for one in shift[~shift.isnan()].tolist()]
    keys = " ".join(page.texts["div"])
    assert all(store.rows.keys[clip] in keys for clip in drawn.clip)


def test_only_draws_of_the_word_that_is_asked_for_are_shown(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = ("--data.shards", tiny_dataset, "--data.clip_seconds", 0.1), tmp_path / "page.html"
    assert run_here(monkeypatch, *shards, "--word", "no", "--draws", 4, "--out", out) == 0
    assert page_words(out) == ["no"] * 4


def page_words(path: Path) -> list[str]:
    return [text.strip() for text in Page(path).texts["h2"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--word", "yess"], "--word yess: the words are no, up, yes"),
        (["--draws", "0"], "--draws 0: how many to show"),
        (["--augment.shift_probability", "7"], "--augment.shift_probability 7.0 is outside"),
        (["--out", "nowhere/page.html"], "--out nowhere/page.html: there is no folder nowhere"),
    ],
)
def test_wrong_use_is_said_in_one_sentence(
    tiny_dataset: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here(monkeypatch, "--data.shards", tiny_dataset, "--data.clip_seconds", 0.1, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(said)
    assert message.count("\n") == 1


def test_draws_of_a_word_are_the_next_ones_there_are() -> None:
    labels = np.arange(100) % 5
    sampler = build_sampler(labels, seed=0, balance=0.0, global_batch=64)  # 28 rows of each epoch are padding
    found = find_draws(sampler, labels, count=30, first=10, label=2)
    drawn = sampler.draws(np.arange(2000))
    assert found == [t for t in range(10, 2000) if drawn.weight[t] and labels[drawn.clip[t]] == 2][:30]
    assert find_draws(sampler, labels, count=100) == np.flatnonzero(drawn.weight)[:100].tolist()
    assert find_draws(sampler, labels, count=3, label=9) == []


def test_amounts_are_said_with_their_units_whatever_they_are_called() -> None:
    amounts = {"shift_samples": [-800.0], "gain_db": [-3.21], "speed_percent": [93.0], "noise_amplitude": [0.04567]}
    assert describe(amounts, 16_000) == ["shift -50.0 ms", "gain -3.2 dB", "speed 93 %", "noise amplitude 0.0457"]
    assert describe({"time_mask_frames": [3.0, 17.0], "new_thing": [1.0]}, 16_000) == [
        "time mask 3, 17 frames",
        "new thing 1",
    ]


@pytest.mark.filterwarnings("error::UserWarning")
def test_silence_waveform_features_and_any_word_can_be_shown(tmp_path: Path) -> None:
    silent = Heard(
        draw=0,
        key="a/0",
        word="<b>$x$</b>",
        partner=None,
        clean=np.zeros(1600, np.float32),
        wave=np.zeros(1600, np.float32),
        clean_features=np.zeros((40, 11), np.float32),
        features=np.zeros((40, 11), np.float32),
        amounts={},
    )
    raw = replace(silent, clean_features=silent.clean[None], features=silent.wave[None], partner=("b/1", "no", 0.25))
    about = {"title": "a & b", "about": "", "settings": {"reverb_folder": "<x>"}, "sample_rate_hz": 16_000}
    write_page(tmp_path / "page.html", [silent, raw], **about)
    assert page_words(tmp_path / "page.html") == ["<b>$x$</b>", "75 % <b>$x$</b>, 25 % no"]
    assert "<b>" not in (tmp_path / "page.html").read_text()
    assert Page(tmp_path / "page.html").texts["li"][0] == "nothing was done"
