"""Files of a sweep's folder and of its trials, and the ledger of a sweep: its trials and the time of its trainings.

The ledger holds what the trials' folders do not: a trial has no folder until it begins, and the adapters of a pack
share their time, so their own figures do not add up.
"""

from __future__ import annotations

import json
from pathlib import Path

from kimi_audio_ft.files import write_json

# In the sweep's folder: the ledger, and what successive halving decided.
LEDGER, HALVING = "engine.json", "halving.json"
# What a trial writes into its folder; .hydra is Hydra's own.
RECORDS = ("scores.json", "baseline.json", "failure.json", "utterances.jsonl", "curves.jsonl")
_FITTING, _TRIALS = "fitting_seconds", "trials"


def record_trials(sweep_dir: Path, number: int) -> None:
    """Add the trials of a launch before they begin; a sweeper may launch several times."""
    facts = _read(sweep_dir)
    write_json(sweep_dir / LEDGER, {**facts, _TRIALS: int(facts.get(_TRIALS, 0)) + number})


def record_fitting(sweep_dir: Path, seconds: float) -> None:
    """Add the time in which a launch trained anything."""
    facts = _read(sweep_dir)
    write_json(sweep_dir / LEDGER, {**facts, _FITTING: round(facts.get(_FITTING, 0.0) + seconds, 1)})


def planned_trials(sweep_dir: Path) -> int | None:
    """Number of trials that were launched so far, begun or not; None where that was not recorded."""
    number = _read(sweep_dir).get(_TRIALS)
    return None if number is None else int(number)


def _read(sweep_dir: Path) -> dict[str, float]:
    path = sweep_dir / LEDGER
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
