"""What a model heard in files, for people and for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kws_dist.errors import printable
from kws_dist.inference.files import Heard
from kws_dist.inference.prediction import Prediction


def as_table(files: Sequence[Heard], top: int) -> Table:
    """Make a table with a row for each file, or for each stretch of a longer one; `top` words in a row, best first."""
    timed = any(heard.is_long for heard in files)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    if timed:
        table.add_column("from", justify="right", no_wrap=True)
        table.add_column("to", justify="right", no_wrap=True)
    table.add_column("word", overflow="fold", style="bold")
    table.add_column("score", justify="right", no_wrap=True)
    if top > 1:
        table.add_column("or else, %", overflow="fold", style="dim")
    for heard in files:
        name = printable(str(heard.path))
        for start_s, end_s, prediction in heard.windows:
            times = [_clock(start_s), _clock(end_s)] if heard.is_long else ["", ""]
            best, *others = prediction.top(top)
            rest = ", ".join(f"{word} {100 * score:.1f}" for word, score in others)
            cells = [name, *(times if timed else ()), best[0], _percent(best[1]), *([rest] if top > 1 else ())]
            table.add_row(*map(Text, cells))
            name = ""
        if not heard.windows:
            table.add_row(*map(Text, [name, "", "", "-", "", *([""] if top > 1 else ())]))
    return table


def as_json(heard: Heard, top: int) -> dict[str, Any]:
    """Return a file as a JSON object: its word and the `top` ones with scores, or a list of those with their times."""
    about: dict[str, Any] = {"file": str(heard.path)}
    if heard.fault:
        return {**about, "error": heard.fault}
    about["seconds"] = round(heard.seconds, 6)
    if not heard.is_long:
        return {**about, **_words(heard.windows[0].prediction, top)}
    rows = [{"start_s": start_s, "end_s": end_s, **_words(said, top)} for start_s, end_s, said in heard.windows]
    return {**about, "windows": rows}


def _words(prediction: Prediction, top: int) -> Mapping[str, Any]:
    ranked = [{"word": word, "score": score} for word, score in prediction.top(top)]
    return {"word": prediction.word, "score": prediction.score, "top": ranked}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _clock(seconds: float) -> str:
    """`1:02:03.25`, without what is zero in front of the seconds."""
    hundredths = round(100 * seconds)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest / 100:05.2f}"
    return f"{minutes}:{rest / 100:05.2f}" if minutes else f"{rest / 100:.2f}"
