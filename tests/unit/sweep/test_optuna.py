"""Optuna asks for a pack of different trials."""

from __future__ import annotations

import warnings
from pathlib import Path
from statistics import pstdev
from typing import Any

import pytest
from omegaconf import OmegaConf

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.sweep.optuna import refuse_unusable_study
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep_folder import read_record

optuna = pytest.importorskip("optuna", reason="hydra-optuna-sweeper is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def spread(sampler: object) -> float:
    """Standard deviation of log10(lr) over 8 trials asked for together, after 8 whose best is at 1e-3."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler)
    for exponent in (-2.0, -2.3, -2.6, -2.9, -3.0, -3.1, -3.4, -4.0):
        space = {"lr": optuna.distributions.UniformDistribution(-4, -2)}
        trial = optuna.trial.create_trial(params={"lr": exponent}, distributions=space, value=abs(exponent + 3))
        study.add_trial(trial)
    return pstdev(study.ask().suggest_uniform("lr", -4, -2) for _ in range(8))


def test_trials_of_a_pack_are_spread_and_repeatable() -> None:
    from kimi_audio_ft.sweep.optuna import tpe_for_packs

    options = {"n_startup_trials": 8, "n_ei_candidates": 24}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samplers = [tpe_for_packs(seed=seed, **options) for seed in (0, 1, 2, 0)]
    first, *others, again = map(spread, samplers)
    plain = [spread(optuna.samplers.TPESampler(seed=seed, **options)) for seed in (0, 1, 2)]
    assert min(first, *others) > 2 * max(plain)
    assert first == again


SWEEPER = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", "direction": "minimize"}
_STORAGE = optuna.storages.InMemoryStorage()


def kept() -> Any:
    """A storage that outlives a sweep, as a database does."""
    return _STORAGE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"direction": ["minimize", "minimize"]},
            r"direction=.*must be minimize: train returns one",
        ),
        ({"direction": "maximize"}, "must be minimize"),
        ({"storage": "sqlite:///o.db"}, "hydra.sweeper.study_name=None: is needed with hydra.sweeper.storage"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    sweeper = SWEEPER | options
    with pytest.raises(ConfigError, match=message):
        refuse_unusable_study(sweeper)
    asked = {"task": [], "hydra": []}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "overrides": asked, "sweeper": sweeper}})
    with pytest.raises(SystemExit):
        SweepReport().on_multirun_start(config)
    assert "error: hydra.sweeper" in capsys.readouterr().err
    SweepReport.conclude_failed()


def test_a_database_that_this_sqlalchemy_cannot_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = SWEEPER | {"storage": "sqlite:///o.db", "study_name": "s"}
    monkeypatch.setattr("kimi_audio_ft.sweep.optuna.version", {"optuna": "2.10.1", "sqlalchemy": "2.1"}.get)
    with pytest.raises(ConfigError, match=r"Optuna 2\.10\.1 cannot open it with SQLAlchemy 2\.1\. Run pip install"):
        refuse_unusable_study(stored)
    monkeypatch.setattr("kimi_audio_ft.sweep.optuna.version", {"optuna": "2.10.1", "sqlalchemy": "1.4.54"}.get)
    refuse_unusable_study(stored)


def test_a_stored_study_that_goes_on_keeps_the_trials_of_its_first_run(tmp_path: Path) -> None:
    """Also when it asks for another number of trials, which is another command."""
    study = optuna.create_study(study_name="s", storage=kept())
    sweeper = SWEEPER | {"storage": {"_target_": f"{__name__}.kept"}, "study_name": "s"}

    def begin(*asked: str) -> None:
        overrides = {"task": [], "hydra": list(asked)}
        stated = {"sweep": {"dir": str(tmp_path)}, "overrides": overrides, "sweeper": sweeper}
        SweepReport().on_multirun_start(OmegaConf.create({"hydra": stated}))
        first = SweepReport.first_number()
        SweepReport.record({first + place: (tmp_path / str(first + place), ["lora.r=2"]) for place in range(2)})
        SweepReport.conclude_failed()

    begin("hydra.sweeper.n_trials=2")
    for rate in (0.5, 0.4):
        study.tell(study.ask(), rate)
    begin("hydra.sweeper.n_trials=4")
    assert [*read_record(tmp_path)["jobs"]] == ["0", "1", "2", "3"] and not list(tmp_path.glob(".before-*"))
