"""Everything that can be said of a folder of shards without a model: whether it is as written, and what is in it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kws_dist.shards.examine import Clips, examine
from kws_dist.shards.figures import balance, per_word, speakers
from kws_dist.shards.findings import Finding, find
from kws_dist.shards.verify import Verified, verify

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkup:
    """The result of looking at a dataset."""

    verified: Verified
    clips: Clips | None
    """None if `dataset.json` cannot be used."""
    findings: list[Finding]
    verify_s: float
    examine_s: float

    @property
    def wrong(self) -> list[Finding]:
        """The findings that are errors."""
        return [finding for finding in self.findings if finding.is_error and finding.items]

    @property
    def is_fine(self) -> bool:
        """Everything is as it was written, and nothing found in it is an error."""
        return not self.verified.faults and not self.wrong

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        meta, clips = self.verified.meta, self.clips
        return {
            "folder": str(self.verified.root),
            "is_fine": self.is_fine,
            "task": meta.task if meta else None,
            "digest": meta.digest if meta else None,
            "shards": len(self.verified.shards),
            "clips": self.verified.clips,
            "faults": [asdict(fault) for fault in self.verified.faults],
            "words": per_word(clips) if clips else {},
            "balance": balance(clips) if clips else {},
            "speakers": speakers(clips) if clips else {},
            "findings": {
                finding.kind: {
                    "title": finding.title,
                    "rule": finding.rule,
                    "is_error": finding.is_error,
                    "clips": len(finding.keys),
                    "items": [asdict(item) for item in finding.items],
                }
                for finding in self.findings
            },
            "verify_s": round(self.verify_s, 3),
            "examine_s": round(self.examine_s, 3),
        }


def check_up(root: Path, *, workers: int = 1, say: Say = lambda _: None) -> Checkup:
    """Verify a dataset and look at the clips that are whole; `say` hears how far it is.

    Raises `UsageError` if there is no dataset in `root`, not even a damaged one.
    """
    began_s = time.perf_counter()
    verified = verify(root, workers=workers, on_clips=_counting("verified", say))
    verified_s = time.perf_counter()
    clips = examine(verified, workers=workers, on_clips=_counting("examined", say)) if verified.meta else None
    findings = find(clips) if clips else []
    return Checkup(verified, clips, findings, verified_s - began_s, time.perf_counter() - verified_s)


def _counting(what: str, say: Say) -> Callable[[int], None]:
    done = 0

    def on_clips(more: int) -> None:
        nonlocal done
        done += more
        say(f"{what} {done:,} clips")

    return on_clips
