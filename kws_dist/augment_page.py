"""A page that shows draws before and after augmentation: pictures, sound to be played, and what was done in numbers."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kws_dist.augment_preview import Floats, Heard
from kws_dist.files import write_whole
from kws_dist.frontend.chance import PCM_SCALE
from kws_dist.shards.codec import encode

_DPI = 80
_SIZE_IN = (5.6, 2.7)
_COLOUR = "#4477aa"

_UNITS = {"_db": "dB", "_dbfs": "dBFS", "_percent": "%", "_frames": "frames", "_bins": "bins"}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1000px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.4em; margin-bottom: .2em } h2 { font-size: 1.1em; margin: 0 0 .2em }
.quiet { color: #666; font-size: .9em; overflow-wrap: anywhere }
article { border-top: 1px solid #ccc; padding: 1.2em 0 }
.sides { display: flex; flex-wrap: wrap; gap: 1em } figure { flex: 1 1 300px; min-width: 0; margin: 0 }
figure img { width: 100%; height: auto; display: block } figcaption { color: #666; font-size: .9em }
audio { width: 100%; height: 36px; margin-top: .3em }
ul { display: flex; flex-wrap: wrap; gap: .4em; list-style: none; padding: 0; margin: .6em 0 }
li { background: #eef3f8; border-radius: 4px; padding: .15em .6em }
table { border-collapse: collapse; font-size: .9em } td { padding: .1em 1.2em .1em 0 }
"""


def write_page(
    path: Path, heard: Sequence[Heard], *, title: str, about: str, settings: Mapping[str, Any], sample_rate_hz: int
) -> None:
    """Write one HTML file that needs nothing else. `settings` of the augmentation are listed as they are."""
    rows = "".join(f"<tr><td>{escape(name)}<td>{escape(str(value))}" for name, value in settings.items())
    articles = "".join(_article(one, sample_rate_hz) for one in heard)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style>
<h1>{escape(title)}</h1>
<p class="quiet">{escape(about)}</p>
<details><summary>settings of the augmentation</summary><table>{rows}</table></details>
{articles}</html>
"""
    write_whole(path, page.encode())


def describe(amounts: Mapping[str, Sequence[float]], sample_rate_hz: int) -> list[str]:
    """Say what was done in words and units, whatever it is called: `shift_samples` is a shift in ms."""
    return [
        f"{name} {', '.join(values)} {unit}".rstrip()
        for full_name, numbers in amounts.items()
        for name, values, unit in [_in_units(full_name, numbers, sample_rate_hz)]
    ]


def _in_units(name: str, numbers: Sequence[float], sample_rate_hz: int) -> tuple[str, list[str], str]:
    if name.endswith("_samples"):
        texts = [f"{1000 * number / sample_rate_hz:.1f}" for number in numbers]
        return _plain(name.removesuffix("_samples")), texts, "ms"
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            digits = 1 if suffix.startswith("_db") else 0
            return _plain(name.removesuffix(suffix)), [f"{number:.{digits}f}" for number in numbers], unit
    return _plain(name), [f"{number:.3g}" for number in numbers], ""


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _article(one: Heard, sample_rate_hz: int) -> str:
    word, keys = one.word, one.key
    if one.partner is not None:
        key, other, share = one.partner
        word, keys = f"{100 * (1 - share):.0f} % {word}, {100 * share:.0f} % {other}", f"{keys} + {key}"
    done = "".join(f"<li>{escape(text)}" for text in describe(one.amounts, sample_rate_hz)) or "<li>nothing was done"
    loudest = max(float(np.abs(one.clean).max()), float(np.abs(one.wave).max()), 1e-3)
    colours = _colour_range(one.clean_features)
    sides = "".join(
        f"<figure><img alt='waveform and features, {side}' src='{picture}'>"
        f"<figcaption>{side}, peak {_level(wave)}</figcaption><audio controls src='{_sound(wave)}'></audio></figure>"
        for side, wave, features in (("before", one.clean, one.clean_features), ("after", one.wave, one.features))
        for picture in [_picture(wave, features, loudest, colours, sample_rate_hz)]
    )
    return (
        f"<article><h2>{escape(word)}</h2><div class='quiet'>draw {one.draw:,} · {escape(keys)}</div>"
        f"<ul>{done}</ul><div class='sides'>{sides}</div></article>\n"
    )


def _level(wave: Floats) -> str:
    peak = float(np.abs(wave).max())
    return f"{20 * np.log10(peak):.1f} dBFS" if peak else "none: all zeros"


def _sound(wave: Floats) -> str:
    """Return a waveform in [-1, 1] as the address of a WAV file that is in the address itself."""
    samples = np.clip(np.rint(wave * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
    return f"data:audio/wav;base64,{base64.b64encode(encode(samples, 'wav')).decode()}"


def _picture(wave: Floats, features: Floats, loudest: float, colours: tuple[float, float], sample_rate_hz: int) -> str:
    """Return the waveform above its features, as the address of a PNG that is in the address itself."""
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    shows_features = len(features) > 1  # else they are the waveform
    grid = figure.subplots(2 if shows_features else 1, 1, sharex=True, squeeze=False)[:, 0]
    seconds = len(wave) / sample_rate_hz
    _draw_wave(grid[0], wave, seconds, loudest)
    if shows_features:
        extent = (0.0, seconds, 0.0, float(len(features)))
        low, high = colours
        grid[1].imshow(features, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, extent=extent)
        grid[1].set_yticks([])
    grid[-1].set_xlabel("seconds", fontsize=8)
    grid[-1].tick_params(labelsize=7, length=2)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, dpi=_DPI, format="png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _draw_wave(axes: Axes, wave: Floats, seconds: float, loudest: float) -> None:
    axes.plot(np.linspace(0, seconds, len(wave)), wave, color=_COLOUR, linewidth=0.5)
    axes.set_xlim(0, seconds)
    axes.set_ylim(-loudest, loudest)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _colour_range(features: Floats) -> tuple[float, float]:
    """Return the least and the most that colours tell apart; zeros of padding, far below, do not count."""
    low, high = np.percentile(features, [10, 100])
    return float(low), float(max(high, low + 1.0))
