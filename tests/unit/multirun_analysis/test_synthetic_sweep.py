"""The synthetic sweep is what it says: real formats, real scores, the planted rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multirun_analysis import load_sweep
from multirun_analysis.sweep import Sweep
from tests.synthetic_errors import Corpus, ErrorModel, Planted
from tests.synthetic_sweep import write_sweep

GRID: dict[str, Any] = {"ranks": (8, 32), "rates": (5e-5,), "temperatures": (0.0, 0.2)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("synthetic") / "sweep"
    return load_sweep(write_sweep(folder, **GRID, utterances=400, recordings=40, repeats=2)).sweep


def test_the_planted_rates_come_out(sweep: Sweep) -> None:
    cers = {(t.params["lora.r"], t.params["decoding.text_temperature"]): t.cer for t in sweep.finished}
    planted = Planted()
    assert cers[32, 0.0] == pytest.approx(planted.cer, rel=0.1)
    assert cers[8, 0.0] / cers[32, 0.0] == pytest.approx(1.1, rel=0.06)
    assert sweep.baselines[0].cer == pytest.approx(planted.base_cer, rel=0.1)


def test_rates_are_exact_in_the_mean_of_many_seeds() -> None:
    corpus = Corpus(300, 30, seed=1)
    rates = []
    for seed in range(40):
        model = ErrorModel(corpus, Planted(trial_spread=0.3), seed)
        errors = [model.errors(name, rate, "once") for name, rate in (("a", 0.1), ("b", 0.12))]
        rates.append([one.mean() for one in errors])
        assert model.counts(errors[0]).sum() == errors[0].sum()
    assert np.mean(rates, axis=0) == pytest.approx([0.1, 0.12], rel=0.03)


def test_trials_share_most_of_their_errors() -> None:
    model = ErrorModel(Corpus(300, 30, seed=1), Planted(), seed=1)
    first, second = model.errors("a", 0.1), model.errors("b", 0.1)
    assert 0.65 < (first & second).sum() / first.sum() < 0.85
    again = model.errors("a", 0.1, "another sampling")
    assert 0.85 < (first & again).sum() / first.sum() < 0.98


def test_hydra_and_curves_are_there(sweep: Sweep) -> None:
    trial = sweep.finished[3]
    assert trial.overrides == {"lora.r": 32, "optim.lr": 5e-5, "decoding.text_temperature": 0.2}
    assert trial.curves[-1]["split"] == "val" and trial.curves[-1]["epoch"] == 5
    assert sweep.command and sweep.command.startswith("python -m kimi_audio_ft.train -m lora.r=8,32 optim.lr=5e-05")
    config = (trial.folder / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    assert "lora_alpha: 64" in config


def test_the_same_seed_writes_the_same_sweep(tmp_path: Path) -> None:
    small: dict[str, Any] = {**GRID, "utterances": 30, "recordings": 6}
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = write_sweep(tmp_path / name, **small, seed=seed)
        texts.append([(folder / str(n) / "utterances.jsonl").read_text(encoding="utf-8") for n in range(4)])
    assert texts[0] == texts[1] != texts[2]
    assert json.loads((tmp_path / "a" / "0" / "scores.json").read_text(encoding="utf-8"))["num_references"] == 30
