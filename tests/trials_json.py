"""What sweeps and trials leave behind; ``trials.json`` of two sweeps over the same points, compared value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kimi_audio_ft.files import read_jsonl

# What they may differ in: when, where, how fast and by which command it was made. Everything else must be equal.
INCIDENTAL = ("created", "sweep", "command", "train_seconds", "decode_seconds")


def values(sweep: Path, *also_incidental: str) -> dict[str, Any]:
    """Every value of a sweep's ``trials.json`` by its place in it (``trials.3.scores.cer``), but for INCIDENTAL ones.

    Args:
        also_incidental: further names that are left out.
    """
    document = json.loads((sweep / "trials.json").read_text(encoding="utf-8"))
    return dict(_leaves(document, "", (*INCIDENTAL, *also_incidental)))


def trials_of(sweep: Path) -> list[dict[str, Any]]:
    """The trials of a sweep's ``trials.json``."""
    return list(json.loads((sweep / "trials.json").read_text(encoding="utf-8"))["trials"])


def scores_of(trial: Path, name: str = "scores.json") -> dict[str, Any]:
    """The figures in a trial's folder."""
    return dict(json.loads((trial / name).read_text(encoding="utf-8")))


def hypotheses_of(trial: Path) -> dict[str, str]:
    """A trial's transcripts by utterance."""
    return {row["id"]: row["hypothesis"] for row in read_jsonl(trial / "utterances.jsonl")}


def _leaves(value: Any, place: str, left_out: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict | list) or not value:
        yield place, value
        return
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if name not in left_out:
            yield from _leaves(inner, f"{place}.{name}" if place else str(name), left_out)
