"""The ledger of a sweep: launches add up, and neither figure touches the other."""

from __future__ import annotations

import json
from pathlib import Path

from kimi_audio_ft.sweep_folder import LEDGER, hydras_folder, planned_trials, record_fitting, record_jobs, trial_folders


def test_without_a_ledger_the_number_of_trials_is_unknown(tmp_path: Path) -> None:
    assert planned_trials(tmp_path) is None
    record_fitting(tmp_path, 1.5)
    assert planned_trials(tmp_path) is None


def test_launches_add_up(tmp_path: Path) -> None:
    record_jobs(tmp_path, {number: (tmp_path / str(number), []) for number in range(8)})
    record_fitting(tmp_path, 12.34)
    record_jobs(tmp_path, {number: (tmp_path / "four" / str(number), ["lora.r=2"]) for number in range(8, 12)})
    record_fitting(tmp_path, 0.5)
    assert planned_trials(tmp_path) == 12
    record = json.loads((tmp_path / LEDGER).read_text(encoding="utf-8"))
    assert (record["trials"], record["fitting_seconds"]) == (12, 12.8)
    assert record["jobs"]["9"] == {"folder": "four/9", "overrides": ["lora.r=2"]}


def test_trials_that_have_begun_are_found_where_the_record_says_they_are(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "scores.json").write_text("{}", encoding="utf-8")
    assert trial_folders(tmp_path) == [tmp_path / "notes"], "without a record"
    folders = {number: tmp_path / f"r{number}" / "seed1" for number in (0, 2, 10)}
    record_jobs(tmp_path, {number: (folder, []) for number, folder in folders.items()})
    for number in (10, 2):
        folders[number].mkdir(parents=True)
    assert trial_folders(tmp_path) == [folders[2], folders[10]]


def test_hydras_own_folder_may_have_another_name_or_none(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert hydras_folder(tmp_path) == tmp_path / ".hydra"
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg" / "hydra.yaml").write_text("", encoding="utf-8")
    assert hydras_folder(tmp_path) == tmp_path / "cfg"
    (tmp_path / ".hydra").mkdir()
    assert hydras_folder(tmp_path) == tmp_path / ".hydra"
