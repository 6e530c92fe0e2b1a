"""The recommended trial: the one with the lowest error rate, unless a cheaper one is shown to be hardly worse.

Not "the cheapest that cannot be told apart from the best": what little data cannot tell apart is not equal, and a
cheaper adapter saves nothing in use once it is merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from multirun_analysis.statistics.pairs import standard_errors
from multirun_analysis.statistics.randomisation import Randomised
from multirun_analysis.statistics.results import ALPHA, Reason, Standing
from multirun_analysis.statistics.tally import Tally
from multirun_analysis.sweep import GREEDY_TEMPERATURE, Trial

MARGIN = 0.03
"""How much worse than the best, relative to its error rate, a cheaper trial may be."""


def standings(tally: Tally, randomised: Randomised) -> list[Standing]:
    """Each trial against the best of all, which may be any of them.

    Whichever trial is the truly best, with 95 % none of its differences from the others is further off than its own
    critical value; a trial's excess over it is then at most the largest of its upper bounds against all others.
    """
    errors = standard_errors(tally)
    # Where two differ alike in every recording nothing is added, also by an infinite critical value.
    beyond = np.multiply(randomised.critical, errors, out=np.zeros_like(errors), where=errors > 0)
    above = tally.rates[:, None] - tally.rates + beyond
    np.fill_diagonal(above, -np.inf)
    excess = np.maximum(above.max(axis=1), 0.0).tolist()
    return list(map(Standing, tally.trials, randomised.p_best.tolist(), excess, tally.rates.tolist()))


def best_group(standing: Sequence[Standing]) -> list[Trial]:
    """Trials that are not ruled out as the best; the one with the lowest rate never is."""
    lowest = min(standing, key=lambda one: one.rate, default=None)
    return [one.trial for one in standing if one is lowest or one.p_best >= ALPHA]


def recommend(standing: Sequence[Standing], margin: float = MARGIN) -> tuple[Trial, Reason]:
    """The best of ``standing`` (best first), or the cheapest that is within the margin, and why."""
    best = standing[0].trial
    shown = [one.trial for one in standing if one.excess <= margin * standing[0].rate and cost(one.trial) < cost(best)]
    if shown:
        return min(shown, key=cost), Reason.CHEAPER  # the better one of equally cheap ones: it comes first
    return best, Reason.ALONE if len(best_group(standing)) == 1 else Reason.LOWEST


def cost(trial: Trial) -> tuple[float, float, float, bool]:
    """Cost of a trial as a sort key: trainable parameters, rank, training steps, sampling or greedy.

    Nothing measured in seconds: the recommendation is the same on every machine and in every run.
    """
    return (
        _number(trial.record.get("trainable_parameters")),
        _number(trial.params.get("lora.r")),
        _number(trial.record.get("steps")),
        trial.params.get("decoding.text_temperature") != GREEDY_TEMPERATURE,
    )


def _number(value: object) -> float:
    """Unknown costs count as the highest."""
    return float(value) if isinstance(value, int | float) else math.inf
