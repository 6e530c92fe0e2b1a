"""Settings: trials that differ in nothing but their seeds are one setting, and one row of the leaderboard.

A trial is one adapter, and training it with another seed gives another one. Who asks which setting to use asks about
the mean over seeds, so where seeds are swept settings are ranked and compared by their means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from kimi_audio_ft.config.train import SEEDS
from multirun_analysis.params import identity, is_of_base, value_of
from multirun_analysis.sweep import Trial


@dataclass(frozen=True, eq=False)
class Setting:
    """Trials of one setting, each with another seed, the lowest error rate first; equal to itself alone."""

    trials: list[Trial]

    @property
    def trial(self) -> Trial:
        """The trial that stands for it and whose adapter is taken: the one with the lowest error rate.

        Adapters of one setting truly differ, so the lowest is the better one to use. It was chosen by its error rate,
        which therefore flatters it: whatever is said of the setting is said of the mean over all its seeds.
        """
        return self.trials[0]

    @property
    def is_base(self) -> bool:
        return self.trial.is_base

    @cached_property
    def rate(self) -> float:
        """Mean over the seeds."""
        return mean(trial.rate for trial in self.trials)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the error rate over the seeds; None of one seed."""
        return stdev(trial.rate for trial in self.trials) if len(self.trials) > 1 else None

    @property
    def lowest(self) -> float:
        return self.trials[0].rate

    @property
    def highest(self) -> float:
        return self.trials[-1].rate


def settings_of(trials: Sequence[Trial], swept: Sequence[str]) -> list[Setting]:
    """The settings of ``trials``, all trials or all bases; every one is its own setting where no seed is swept.

    A trial that repeats a setting with a seed that the setting has opens another one: it is no further seed.
    """
    seeds = [param for param in swept if param in SEEDS]
    others = [param for param in swept if param not in SEEDS]
    of_base = [param for param in others if is_of_base(param)]
    found: dict[str, list[dict[str, Trial]]] = {}
    for trial in trials:
        alike = found.setdefault(_values(trial, of_base if trial.is_base else others), [])
        seed = _values(trial, seeds)
        one = next((members for members in alike if seed not in members), None)
        if one is None:
            alike.append(one := {})
        one[seed] = trial
    return [Setting(sorted(one.values(), key=lambda trial: trial.rate)) for alike in found.values() for one in alike]


def _values(trial: Trial, params: Sequence[str]) -> str:
    return " ".join(identity(value_of(trial, param)) for param in params)
