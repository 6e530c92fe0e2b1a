"""Where a hypothesis differs from its reference, character by character."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from multirun_analysis.collect import Trial

MOST_SHOWN = 12


@dataclass(frozen=True)
class Piece:
    """A stretch of text; ``kind`` is equal, replace, delete (reference only) or insert (hypothesis only)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Mistake:
    """An utterance that was not transcribed exactly, with its differences marked on both sides.

    audio: the recording's file name; ``path`` is all of it, as the manifest has it.
    """

    identity: str
    audio: str | None
    path: str | None
    cer: float
    reference: list[Piece]
    hypothesis: list[Piece]


def worst_utterances(trial: Trial, most: int = MOST_SHOWN) -> list[Mistake]:
    """The ``most`` utterances with the highest CER, each in its worst repeat; exact ones are left out."""
    worst: dict[str, dict[str, Any]] = {}
    for line in trial.utterances:
        identity = str(line["id"])
        if identity not in worst or _severity(line) > _severity(worst[identity]):
            worst[identity] = line
    ordered = sorted(worst.values(), key=_severity, reverse=True)
    return [_mistake(line) for line in ordered[:most] if line["cer"]]


def mark(reference: str, hypothesis: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts cut at the edits of a shortest edit path (the one an error rate counts)."""
    left, right = [], []
    for step in Levenshtein.opcodes(reference, hypothesis):
        if step.src_end > step.src_start:
            left.append(Piece(step.tag, reference[step.src_start : step.src_end]))
        if step.dest_end > step.dest_start:
            right.append(Piece(step.tag, hypothesis[step.dest_start : step.dest_end]))
    return left, right


def _severity(line: dict[str, Any]) -> tuple[float, int]:
    """Of two equally wrong utterances the longer one tells more."""
    return (line["cer"], len(line["reference"]))


def _mistake(line: dict[str, Any]) -> Mistake:
    reference, hypothesis = mark(line["reference"], line["hypothesis"])
    path = str(line["audio"]) if line.get("audio") else None
    return Mistake(str(line["id"]), Path(path).name if path else None, path, line["cer"], reference, hypothesis)
