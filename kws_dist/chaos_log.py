"""What `tools/chaos.py` writes down: a line for each attack, a line for each round, and a table at the end."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kws_dist.chaos_attacks import FULL_DISK, Kind

PHASES = ("start-up", "training", "validation", "saving", "conclusion")
_SAID_CHARACTERS = 150


@dataclass(frozen=True)
class Hit:
    """An attack that met a living job."""

    number: int
    at_s: float
    """Since the beginning of all."""
    kind: Kind
    target: str
    phase: str
    step: int | None
    """The step that was trained then, or last."""


@dataclass
class Life:
    """What became of one start of the job."""

    round: int
    start: int
    """The number of this start, over all rounds."""
    checkpoint: int
    """The step of the newest checkpoint at its start."""
    hits: list[Hit] = field(default_factory=list)
    began: int | None = None
    """The step that it began at; None if it never did."""
    exit_code: int | None = None
    """None if it hangs."""
    status: str = ""
    """Of the run, when the job had ended."""
    said: str = ""
    """Its last words."""
    no_room: bool = False
    """Whether it said that the disk was full."""

    def ending(self) -> str:
        """Say how it ended, and where that was not in good order, what it said."""
        said = f' saying "{self.said[:_SAID_CHARACTERS]}"' if self.exit_code != 0 else ""
        return f"exit code {self.exit_code}{said}, {self.status or 'not begun'}"

    def broken_promise(self) -> str:
        """Say what it should not have done; "" if it ended as it should."""
        last = self.hits[-1].kind if self.hits else None
        asked = [hit for hit in self.hits if hit.kind.polite]
        ended = f"start {self.start} ended with exit code {self.exit_code} and the run {self.status or 'not begun'}"
        if self.began is not None and self.began != self.checkpoint:
            return f"start {self.start} began at step {self.began}; the newest checkpoint was of step {self.checkpoint}"
        if self.exit_code == 0 and self.status == "stopped" and not asked:
            return f"{ended}, and nobody had asked for that; it said: {self.said}"
        if self.exit_code == 0 and self.status not in ("stopped", "finished"):
            return f"{ended}; it said: {self.said}"
        if self.exit_code and self.no_room and any(hit.kind is FULL_DISK for hit in self.hits):
            return ""
        if self.exit_code and (last is None or last.lives_on) and not asked:
            return f"{ended} by itself; it said: {self.said}"
        if last and last.polite and len(asked) == 1 and self.hits[-1].phase != "start-up" and self.status == "running":
            return f"{ended}, though it was asked to stop ({last.name}); it said: {self.said}"
        return ""


class ChaosLog:
    """Writes to a file, and to the terminal, in words."""

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        self._path, self._say = path, say
        self._before: Life | None = None
        self._hits: list[tuple[Hit, int | None]] = []
        self._lives = self._rounds = 0

    def note(self, text: str) -> None:
        """Write a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        self._say(text)

    def life(self, life: Life) -> None:
        """Write what became of the start before this one, of which it is now known where the run went on."""
        self._flush(life.began)
        self._before, self._lives = life, self._lives + 1

    def round(self, number: int, outcome: str) -> None:
        """Write how a round ended."""
        self._flush(None)
        self._rounds += 1
        self.note(f"round {number}: {outcome}")

    def summary(self) -> list[str]:
        """Return a table of what was done, where it hit, and how many steps were trained again for it."""
        kinds = list(dict.fromkeys(hit.kind.name for hit, _ in self._hits))
        rows = [["attack", "times", *PHASES, "steps again, mean", "most"]]
        for name in [*sorted(kinds), "all"]:
            of_kind = [(hit, lost) for hit, lost in self._hits if name in (hit.kind.name, "all")]
            where = Counter(hit.phase for hit, _ in of_kind)
            lost = [steps for _, steps in of_kind if steps is not None]
            again = [f"{sum(lost) / len(lost):.1f}", str(max(lost))] if lost else ["-", "-"]
            rows.append([name, str(len(of_kind)), *(str(where[phase]) for phase in PHASES), *again])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return [*lines, f"{len(self._hits)} attacks, {self._lives} starts, {self._rounds} rounds"]

    def _flush(self, went_on: int | None) -> None:
        life, self._before = self._before, None
        for hit in life.hits if life else []:
            assert life is not None
            lost, became = None, "it went on"
            if hit is life.hits[-1] and not hit.kind.lives_on:
                became = life.ending()
                if life.status != "finished":
                    became += ", the next one trained nothing" if went_on is None else f", went on at step {went_on}"
                if went_on is not None and hit.step is not None:
                    lost = max(hit.step + 1 - went_on, 0)
            self._hits.append((hit, lost))
            self.note(_line(hit, life, became))


def _line(hit: Hit, life: Life, became: str) -> str:
    step = "" if hit.step is None else f" at step {hit.step}"
    where = f"round {life.round}, start {life.start}"
    return f"{hit.at_s:7.1f} s  {hit.number:4d}  {hit.kind.name} ({hit.target}), {where}, {hit.phase}{step}: {became}"
