"""Optuna asks for a pack of different trials."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import pstdev
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import ConfigError, Refused
from kimi_audio_ft.sweep.optuna import StoredStudy, refuse_unusable_study
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep_folder import read_record
from tests.newest import newest

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
PACKED = "hydra_plugins.kimi_audio_ft_packed.launcher.PackedLauncher"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_STORAGE = optuna.storages.InMemoryStorage()


def kept() -> Any:
    """A storage that outlives a sweep, as a database does."""
    return _STORAGE


def unreachable() -> Any:
    raise OSError("the server does not answer")


def hydra_config(folder: Path, sweeper: dict[str, Any], *asked: str, **launcher: Any) -> DictConfig:
    """Hydra's part of a sweep's config."""
    stated = {"sweep": {"dir": str(folder)}, "overrides": {"task": [], "hydra": list(asked)}, "sweeper": sweeper}
    return OmegaConf.create({"hydra": {**stated, "launcher": {"_target_": PACKED, **launcher}}})


def stored(place: Any, name: str = "s") -> dict[str, Any]:
    return SWEEPER | {"storage": place, "study_name": name}


@pytest.mark.parametrize(
    ("options", "launcher", "message"),
    [
        ({"direction": ["minimize", "minimize"]}, PACKED, r"direction=.*must be minimize: train returns one"),
        ({"direction": "maximize"}, PACKED, "must be minimize"),
        ({"storage": "sqlite:///o.db"}, PACKED, "hydra.sweeper.study_name=None: is needed with hydra.sweeper.storage"),
        (stored({"_target_": "x"}), BASIC, "needs hydra/launcher=packed: others number the trials of every start"),
        (
            stored({"_target_": f"{__name__}.unreachable"}),
            PACKED,
            r"hydra\.sweeper\.storage=.*: cannot be opened \(the server does not answer\)\. See that its folder or",
        ),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_at_the_start(
    tmp_path: Path, options: dict[str, Any], launcher: str, message: str
) -> None:
    config = hydra_config(tmp_path, SWEEPER | options, _target_=launcher)
    with pytest.raises(Refused) as ended:
        SweepReport().on_multirun_start(config)
    assert re.search(message, str(ended.value.error)) and str(ended.value.error).startswith("hydra.sweeper.")
    SweepReport.let_go()


def test_a_database_that_this_sqlalchemy_cannot_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    study = stored("sqlite:///o.db")
    monkeypatch.setattr("kimi_audio_ft.sweep.optuna.version", {"optuna": "2.10.1", "sqlalchemy": "2.1"}.get)
    with pytest.raises(ConfigError, match=r"Optuna 2\.10\.1 cannot open it with SQLAlchemy 2\.1\. Run pip install"):
        refuse_unusable_study(study, PACKED)
    monkeypatch.setattr("kimi_audio_ft.sweep.optuna.version", {"optuna": "2.10.1", "sqlalchemy": "1.4.54"}.get)
    refuse_unusable_study(study, PACKED)


def test_a_stored_study_that_goes_on_keeps_the_trials_of_its_first_run(tmp_path: Path) -> None:
    """Also when it asks for another number of trials, which is another command; another study's are set aside."""
    study = optuna.create_study(study_name="s", storage=kept())
    optuna.create_study(study_name="other", storage=kept()).add_trial(optuna.trial.create_trial(value=0.1))
    place = {"_target_": f"{__name__}.kept"}

    def begin(name: str, *asked: str) -> None:
        SweepReport().on_multirun_start(hydra_config(tmp_path, stored(place, name), *asked))
        first = SweepReport.first_number()
        SweepReport.record({first + job: (tmp_path / str(first + job), ["lora.r=2"]) for job in range(2)})
        SweepReport.conclude_failed()

    begin("s", "hydra.sweeper.n_trials=2")
    for rate in (0.5, 0.4):
        study.tell(study.ask(), rate)
    begin("s", "hydra.sweeper.n_trials=4")
    assert [*read_record(tmp_path)["jobs"]] == ["0", "1", "2", "3"] and not list(tmp_path.glob(".before-*"))
    begin("other", "hydra.sweeper.study_name=other")
    assert [*read_record(tmp_path)["jobs"]] == ["0", "1"] and len(list(tmp_path.glob(".before-*"))) == 1


def test_a_dry_run_asks_a_stored_study_nothing(tmp_path: Path) -> None:
    config = hydra_config(tmp_path, stored({"_target_": f"{__name__}.kept"}), dry_run=True)
    SweepReport().on_multirun_start(config)
    assert config.hydra.sweeper.storage is None


@pytest.mark.parametrize("place", ["{_target_:" + __name__ + ".kept}", "sqlite:///study.db"], ids=["memory", "sqlite"])
def test_an_interrupted_batch_is_what_a_stored_study_asks_for_next(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str], place: str
) -> None:
    if place.startswith("sqlite") and optuna.__version__ < "3" and version("sqlalchemy") >= "2":
        pytest.skip("this Optuna opens no database with this SQLAlchemy")
    rates: list[float] = []

    def run(trials: int, stop: int | None = None) -> None:
        def task(config: TrainConfig) -> float:
            rates.append(config.optim.lr)
            if len(rates) == stop:
                raise KeyboardInterrupt
            return config.optim.lr

        study = (f"hydra.sweeper.storage={place}", "hydra.sweeper.study_name=night", f"hydra.sweeper.n_trials={trials}")
        given = ("hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "optim.lr=interval(1e-3,1e-2)", "seed=1")
        start(command("train", endings=SweepReport)(task), "-m", *given, *study, "hydra.sweep.dir=sweep")

    def states() -> list[str]:
        opened = kept() if place.startswith("{") else place
        return [trial.state.name for trial in optuna.load_study(study_name="night", storage=opened).trials]

    with pytest.raises(SystemExit) as ended:
        run(4, stop=4)
    said = capsys.readouterr().err
    assert ended.value.code == 130
    assert "hydra.sweeper.n_trials more trials, first with the 2 that were interrupted\nResume with:" in said
    assert states() == ["COMPLETE"] * 2 + ["FAIL"] * 2 + ["WAITING"] * 2
    run(3)
    assert rates[4:6] == rates[2:4] and len({*rates}) == 5
    assert states() == ["COMPLETE"] * 2 + ["FAIL"] * 2 + ["COMPLETE"] * 3
    assert [*read_record(Path("sweep"))["jobs"]] == ["0", "1", "2", "3", "4"]


def test_a_batch_that_an_error_ended_is_not_asked_for_again() -> None:
    """And a trial that another process was asked for stays open."""
    study = optuna.create_study(study_name="failed", storage=kept())
    first, second = [study.ask().suggest_uniform("optim.lr", 0, 1) for _ in range(2)]
    sweeper = OmegaConf.create(stored({"_target_": f"{__name__}.kept"}, "failed"))
    StoredStudy(sweeper).give_up([["seed=1", f"optim.lr={first}"]], again=False)
    assert first != second and [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING"]


def test_the_newest_versions_are_those_that_open_a_database() -> None:
    kept = newest(Path(__file__).parents[3] / "setup.cfg")
    assert {"sqlalchemy <2", "alembic <1.15"} <= {*kept} and "hydra-optuna-sweeper >=1.2" in kept
