"""What a sweep's trainings took: the adapters of a pack share their time, so their own figures do not add up."""

from __future__ import annotations

import json
from pathlib import Path

from kimi_audio_ft.store import write_json

LEDGER = "engine.json"


def record_fitting(sweep_dir: Path, seconds: float) -> None:
    """Add the time in which a launch trained anything; a sweeper may launch several times."""
    path = sweep_dir / LEDGER
    before = json.loads(path.read_text(encoding="utf-8"))["fitting_seconds"] if path.is_file() else 0.0
    write_json(path, {"fitting_seconds": round(before + seconds, 1)})
