"""What successive halving stopped early: ``halving.json`` of a sweep's folder, when there is one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError
from multirun_analysis.messages import ENGLISH, Messages
from multirun_analysis.records import Record, finite, read_json

FILE = "halving.json"
_OUT = ("stopped", "failed")


@dataclass(frozen=True)
class Candidate:
    """One adapter that took part.

    decision: "continued", "passed", "stopped" or "failed", at ``step`` of its ``num_steps``. score: of the sweep's
    metric there. jobs: number of trials that it stands for.
    """

    name: str
    decision: str
    step: int
    num_steps: int
    score: float | None
    rank: int | None
    reason: str
    time: str | None
    jobs: int
    signature: str

    @property
    def is_out(self) -> bool:
        """Whether it was not trained to its end."""
        return self.decision in _OUT


@dataclass(frozen=True)
class Halving:
    """The record of successive halving; ``document`` is the whole file."""

    metric: str
    candidates: list[Candidate]
    steps_trained: int
    steps_of_all: int
    document: Record

    @property
    def out(self) -> list[Candidate]:
        """What was not trained to its end, the best ones first."""
        lost = [candidate for candidate in self.candidates if candidate.is_out]
        return sorted(lost, key=lambda one: (one.decision == "failed", -one.step, one.rank or 0))

    def score(self, candidate: Candidate) -> str:
        """A candidate's score as the metric is written."""
        if candidate.score is None:
            return "–"
        return f"{100 * candidate.score:.2f}" if self.metric == "cer" else f"{candidate.score:.4f}"

    def in_words(self, say: Messages = ENGLISH) -> str:
        """Who was stopped where, and what it saved, in one sentence."""
        stopped = Counter(one.step for one in self.candidates if one.decision == "stopped")
        failed = sum(one.decision == "failed" for one in self.candidates)
        parts = [say("halving.stopped_at", n=count, step=step) for step, count in sorted(stopped.items())]
        parts += [say("halving.failed", n=failed)] if failed else []
        losses = say("list.comma").join(parts) or say("halving.none")
        said = say("halving.summary", metric=self.metric, n=len(self.candidates), losses=losses)
        if not self.steps_of_all:
            return said + say("effort.end")
        share = round(100 * self.steps_trained / self.steps_of_all)
        return say("halving.saved", said=said, trained=self.steps_trained, all=self.steps_of_all, share=share)


def read_halving(sweep_dir: Path) -> Halving | None:
    """The record in a sweep's folder; None when the sweep did not stop trainings.

    Raises:
        DataError: the file cannot be read, or lacks what it must have.
    """
    path = sweep_dir / FILE
    if not path.is_file():
        return None
    document = finite(read_json(path))
    try:
        candidates = [_candidate(entry) for entry in document["candidates"]]
        return Halving(document["metric"], candidates, document["steps_trained"], document["steps_of_all"], document)
    except (KeyError, TypeError) as error:
        raise DataError(path, f"is no record of successive halving ({error})", "Run the same sweep again") from error


def _candidate(entry: dict[str, Any]) -> Candidate:
    return Candidate(**{name: entry[name] for name in Candidate.__dataclass_fields__})
