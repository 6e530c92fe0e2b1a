"""The ledger of a sweep: launches add up, and neither figure touches the other."""

from __future__ import annotations

import json
from pathlib import Path

from kimi_audio_ft.sweep_folder import LEDGER, planned_trials, record_fitting, record_trials


def test_without_a_ledger_the_number_of_trials_is_unknown(tmp_path: Path) -> None:
    assert planned_trials(tmp_path) is None
    record_fitting(tmp_path, 1.5)
    assert planned_trials(tmp_path) is None


def test_launches_add_up(tmp_path: Path) -> None:
    record_trials(tmp_path, 8)
    record_fitting(tmp_path, 12.34)
    record_trials(tmp_path, 4)
    record_fitting(tmp_path, 0.5)
    assert planned_trials(tmp_path) == 12
    assert json.loads((tmp_path / LEDGER).read_text(encoding="utf-8")) == {"trials": 12, "fitting_seconds": 12.8}
