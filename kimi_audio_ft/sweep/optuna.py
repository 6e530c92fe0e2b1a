"""Optuna: TPE for trials that are asked for a pack at a time, and studies that are kept in a storage."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from kimi_audio_ft.errors import ConfigError

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


def tpe_for_packs(**options: Any) -> TPESampler:
    """``optuna.samplers.TPESampler`` with its constant liar, which hydra-optuna-sweeper's config has no field for.

    Without it, the trials of a batch do not know of each other and crowd around the same point: a pack of near copies.
    With it, each sees those asked for before it as bad ones, and looks elsewhere.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(constant_liar=True, **options)


def is_optuna(sweeper: Mapping[str, Any]) -> bool:
    """Whether these are the options of hydra-optuna-sweeper."""
    return str(sweeper.get("_target_")).endswith(".OptunaSweeper")


def refuse_unusable_study(sweeper: Mapping[str, Any]) -> None:
    """Look at a study's options before anything is trained: the sweeper would fail after its first batch.

    Raises:
        ConfigError: it minimises anything but one figure, or its storage cannot be opened or found again.
    """
    direction = sweeper.get("direction")
    if str(getattr(direction, "name", direction)).lower() != "minimize":
        rule = "must be minimize: train returns one figure, the error rate that scoring.rank_by names"
        raise ConfigError("hydra.sweeper.direction", direction, rule)
    storage = sweeper.get("storage")
    if storage is None:
        return
    if sweeper.get("study_name") is None:
        rule = "is needed with hydra.sweeper.storage, or the study cannot be found there again"
        raise ConfigError("hydra.sweeper.study_name", None, rule, "Write hydra.sweeper.study_name=NAME")
    if isinstance(storage, str) and _major("optuna") < 3 and _major("sqlalchemy") >= 2:
        rule = f"Optuna {version('optuna')} cannot open it with SQLAlchemy {version('sqlalchemy')}"
        remedy = "Run pip install 'sqlalchemy<2' 'alembic<1.15'"
        raise ConfigError("hydra.sweeper.storage", storage, rule, remedy)


def _major(package: str) -> int:
    try:
        return int(version(package).partition(".")[0])
    except PackageNotFoundError:
        return 0


def stored_trials(sweeper: Mapping[str, Any]) -> int:
    """Number of trials that a study has in its storage; 0 of one that is new, or kept nowhere."""
    storage = sweeper.get("storage")
    if not is_optuna(sweeper) or storage is None:
        return 0
    import optuna
    from hydra.utils import instantiate

    place = storage if isinstance(storage, str) else instantiate(storage)
    try:
        return len(optuna.load_study(study_name=sweeper["study_name"], storage=place).trials)
    except KeyError:
        return 0
