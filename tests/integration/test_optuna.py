"""``hydra/sweeper=optuna`` over packs: the demo's study, made small."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from tests.integration.conftest import SHORT, Workplace
from tests.trials_json import trials_of

pytest.importorskip("optuna", reason="hydra-optuna-sweeper is not installed")
pytestmark = pytest.mark.slow

STUDY = (
    *("+experiments=optuna", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=4"),
    *("hydra.launcher.pack_size=4", "optim.lr=tag(log,interval(1e-3,1e-2))", "trainer.max_steps=2", "baseline=false"),
    "scoring.rank_by=mer",
)


def test_study_asks_in_packs_goes_on_without_failed_trials_and_repeats_itself(workplace: Workplace) -> None:
    command = ("-m", *SHORT, *STUDY, "lora.r=choice(0,2,4)")
    said = workplace.succeed("kimi_audio_ft.train", *command)
    folder = workplace.folder / "study"
    rows = trials_of(folder)
    statuses = [row["status"] for row in rows]
    assert len(rows) == 4 and statuses.count("FAILED") == 1  # fewer than the study allows
    assert all("rank must be 1 or more" in row["message"] for row in rows if row["status"] == "FAILED")
    finished = [row for row in rows if row["status"] == "COMPLETED"]
    assert len({row["params"]["optim.lr"] for row in finished}) == len(finished)
    assert {row["params"]["lora.r"] for row in finished} <= {2, 4}
    best = OmegaConf.load(folder / "optimization_results.yaml")
    assert best.best_value == min(row["scores"]["mer"] for row in finished)
    assert "+experiments=optuna" in json.loads((folder / "trials.json").read_text(encoding="utf-8"))["command"]
    assert "alembic" not in said
    made = workplace.products("adapter")
    assert len(made) == len(finished)

    workplace.succeed("kimi_audio_ft.train", *command)
    assert workplace.products("adapter") == made
    assert OmegaConf.load(folder / "optimization_results.yaml") == best
