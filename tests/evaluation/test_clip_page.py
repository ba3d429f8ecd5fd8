"""The page of pictures of a dataset: there for any number of words, whatever they are called and however many clips."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from spoken_corpus import word

from kws_dist.evaluation.clip_page import ClipPage, draw_clip_page


def page(words: list[str], *, without: str = "", n_samples: int = 8000) -> ClipPage:
    """Three clips of each word, none of the word `without`."""
    counts = {name: 0 if name == without else 3 for name in words}
    pictured = {name: (f"{name}/0", word(i, n_samples=n_samples)) for i, name in enumerate(words) if name != without}
    return ClipPage(
        title="data/mine: some clips",
        sample_rate_hz=16_000,
        counts={"train": counts, "test": dict.fromkeys(words, 1)},
        lengths_s=np.full(3 * len(pictured), n_samples / 16_000),
        levels_dbfs={name: np.linspace(-30, -20, counts[name]) for name in words},
        pictured=pictured,
    )


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_page_grows_with_the_words_and_is_never_empty(tmp_path: Path) -> None:
    heights = []
    for words in (["yes"], ["yes", "no"], [f"word{i}" for i in range(8)], [f"a long word {i}" for i in range(36)]):
        draw_clip_page(page(words), tmp_path / "page.png")
        pixels = image.imread(tmp_path / "page.png")
        assert pixels.std() > 0.05
        heights.append(pixels.shape[0])
    assert heights[0] == heights[1] < heights[2] < heights[3]
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("words", [["$x", "a_b^c", r"\frac"], ["ja", "übung", "naïve"]])
def test_any_word_can_be_shown_also_one_without_clips(tmp_path: Path, words: list[str]) -> None:
    draw_clip_page(page(words, without=words[1]), tmp_path / "page.png")
    draw_clip_page(page(words, n_samples=1), tmp_path / "short.png")
    assert (tmp_path / "short.png").stat().st_size > 10_000
