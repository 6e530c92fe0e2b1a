"""Optuna: TPE for trials that are asked for a pack at a time, and studies that are kept in a storage."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import parse_yaml
from kimi_audio_ft.text import first_line

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

# What opens the storages of Optuna 2.
_OLDER = "pip install 'sqlalchemy<2' 'alembic<1.15'"


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


def refuse_unusable_study(sweeper: Mapping[str, Any], launcher: str) -> None:
    """Look at a study's options before anything is trained: the sweeper would fail after its first batch.

    Args:
        launcher: ``hydra.launcher._target_``.

    Raises:
        ConfigError: it minimises anything but one figure, its storage cannot be opened or its study found there again,
            or the launcher would write its next trials over the first ones.
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
        raise ConfigError("hydra.sweeper.storage", storage, rule, f"Run {_OLDER}")
    if not launcher.endswith(".PackedLauncher"):
        rule = "needs hydra/launcher=packed: others number the trials of every start from 0, over those of the last one"
        raise ConfigError("hydra.sweeper.storage", storage, rule, "Write hydra/launcher=packed, or leave it out")


def _major(package: str) -> int:
    try:
        return int(version(package).partition(".")[0])
    except PackageNotFoundError:
        return 0


class StoredStudy:
    """The study of a sweep that keeps it in a storage.

    given_back: trials of an interrupted batch, which it is asked for first when the command is run again.
    """

    def __init__(self, sweeper: DictConfig) -> None:
        """Open its storage; ConfigError: that is not possible."""
        self._sweeper, self._storage, self._name = sweeper, sweeper["storage"], sweeper["study_name"]
        self.given_back = 0
        self._trials()

    def ran(self, multirun: str) -> bool:
        """Whether a sweep with this multirun.yaml was of the same study, whatever else it asked for."""
        own: Any = OmegaConf.to_container(self._sweeper)
        try:
            earlier = parse_yaml(multirun)["hydra"]["sweeper"]
            return all(earlier[name] == own[name] for name in ("storage", "study_name"))
        except (YAMLError, TypeError, KeyError):
            return False

    def goes_on(self) -> bool:
        """Whether it has finished trials, or some that an interruption has left for now."""
        from optuna.trial import TrialState

        return bool(self._trials(TrialState.COMPLETE, TrialState.WAITING))

    def next_number(self, jobs: Mapping[str, Any]) -> int:
        """Number of its next trial in a folder whose record has these jobs; those that it is asked for again free
        theirs.
        """
        from optuna.trial import TrialState

        waiting = [trial.system_attrs.get("fixed_params", {}) for trial in self._trials(TrialState.WAITING)]
        again = {number for number in jobs for one in waiting if _is_trial(one, jobs[number]["overrides"])}
        return max(map(int, jobs.keys() - again), default=-1) + 1

    def give_up(self, jobs: Sequence[Sequence[str]], again: bool) -> None:
        """Close the trials of a batch that did not come to its end: Optuna would take them for running for ever.

        Args:
            jobs: the overrides of each.
            again: let the study be asked for the same trials first when it goes on.
        """
        from optuna.trial import TrialState

        try:
            study = self._load()
            for trial in self._trials(TrialState.RUNNING):
                if study is not None and any(_is_trial(trial.params, overrides) for overrides in jobs):
                    study.tell(trial.number, state=TrialState.FAIL)
                    if again:
                        study.enqueue_trial(trial.params)
                        self.given_back += 1
        except Exception as error:  # of a database; why the batch ended must be told in any case
            log.warning("study %s: its unfinished trials stay open there (%s)", self._name, first_line(error))

    def _trials(self, *states: Any) -> list[FrozenTrial]:
        study = self._load()
        return [] if study is None else study.get_trials(deepcopy=False, states=states)

    def _load(self) -> Study | None:
        """The study as it is now; None before its first batch."""
        import optuna
        from hydra.utils import instantiate

        try:
            place = self._storage if isinstance(self._storage, str) else instantiate(self._storage)
            return optuna.load_study(study_name=self._name, storage=place)
        except KeyError:
            return None
        except Exception as error:
            rule = f"cannot be opened ({first_line(error.__cause__ or error, type(error).__name__)})"
            remedy = f"See that its folder or its server exists; Optuna 2 needs {_OLDER}"
            raise ConfigError("hydra.sweeper.storage", self._storage, rule, remedy) from error


def _is_trial(params: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether a job's overrides, as hydra-optuna-sweeper writes them, are those of a trial."""
    return {f"{name}={value}" for name, value in params.items()} <= {*overrides}
