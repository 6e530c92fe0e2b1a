from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from multirun_analysis import load_sweep
from multirun_analysis.tables import trials_csv, trials_json

NOW = datetime(2026, 1, 1)


def test_trials_json_tells_everything(sweep: Any) -> None:
    sweep.grid(temperatures=(0.0, 0.3))
    sweep.fail(12, rate=0.1)
    sweep.start(13, 8, 0.1, 0.3)
    document = json.loads(trials_json(load_sweep(sweep.folder), NOW))
    assert document["sweep"] == str(sweep.folder.resolve())
    assert document["created"] == "2026-01-01T00:00:00"
    assert document["command"].startswith("python -m kimi_audio_ft.train -m lora.r=2,8,32")
    assert document["reference_set"]["num_references"] == 4
    assert document["best"] == "lora.r=32,optim.lr=0.003,decoding.text_temperature=0.0"
    assert [trial["status"] for trial in document["trials"]] == ["COMPLETED"] * 12 + ["FAILED", "UNFINISHED"]
    assert document["trials"][12]["message"] == "loss is nan at step 12"
    best = next(trial for trial in document["trials"] if trial["rank"] == 1)
    assert best["params"]["lora.r"] == 32 and best["scores"]["cer"] > best["normalised"]["cer"]
    assert best["paths"]["scores.json"] == f"{best['name']}/scores.json"
    assert [base["kind"] for base in document["baselines"]] == ["baseline"] * 2


def test_hydras_own_folder_may_have_another_name(sweep: Any) -> None:
    folder = sweep.trial(0)
    (folder / ".hydra" / "hydra.yaml").touch()
    (folder / ".hydra").rename(folder / "cfg")
    analysis = load_sweep(sweep.folder)
    assert analysis.best.trial.overrides["lora.r"] == 8
    (trial,) = json.loads(trials_json(analysis, NOW))["trials"]
    assert trial["paths"]["cfg/config.yaml"] == "0/cfg/config.yaml"


def test_trials_csv_has_flat_columns_and_a_row_for_each_trial_and_base(sweep_24: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(trials_csv(load_sweep(sweep_24)))))
    assert len(rows) == 24 + 4 + 1  # and the combination that they make
    assert {"lora.r", "optim.lr", "decoding.text_temperature", "cer", "wer", "normalised.cer"} <= set(rows[0])
    assert (rows[5]["lora.r"], rows[5]["optim.lr"], rows[5]["decoding.text_temperature"]) == ("2", "0.003", "0.1")
    assert float(rows[5]["cer"]) == load_sweep(sweep_24).sweep.trials[5].cer
    assert [row["kind"] for row in rows].count("baseline") == 4


def test_no_cell_of_trials_csv_is_a_formula(sweep: Any) -> None:
    link = '=HYPERLINK("http://x")'
    sweep.trial(0, trial=link, command=f"+{link}", params=sweep.params(8, 1e-3, 0.0) | {"@x": link, "lora.k": -1})
    sweep.trial(1, rank=2)
    header, first, *_ = csv.reader(io.StringIO(trials_csv(load_sweep(sweep.folder))))
    row = dict(zip(header, first, strict=True))
    assert (row["trial"], row["command"], row["'@x"]) == (f"'{link}", f"'+{link}", f"'{link}")
    assert row["lora.k"] == "-1"  # a number
