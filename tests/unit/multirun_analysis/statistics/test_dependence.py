"""Partial dependence in searches, where the truth is known and where little can be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from multirun_analysis.statistics.dependence import partial_dependence
from multirun_analysis.sweep import Trial

PARAMS = ["lora.r", "optim.lr", "augment"]
AUGMENT = {"none": 0.1, "noise": -0.1}


def search(trial: Callable[..., Trial], count: int, noise: float, seed: int = 0) -> tuple[list[Trial], np.ndarray]:
    """Random trials that are best at a learning rate of 1e-4; ranks do nothing, and large ones come with good rates."""
    rng = np.random.default_rng(seed)
    tens = rng.uniform(-6, -2, count)
    ranks = np.where(abs(tens + 4) < 1, rng.integers(20, 65, count), rng.integers(4, 30, count))
    augments = rng.choice(list(AUGMENT), count)
    values = zip(ranks.tolist(), (10**tens).tolist(), augments.tolist(), strict=True)
    found = [trial(str(number), **dict(zip(PARAMS, some, strict=True))) for number, some in enumerate(values)]
    logs = np.log(0.2) + 0.2 * (tens + 4) ** 2 + np.array([AUGMENT[one] for one in augments])
    return found, np.exp(logs + rng.normal(0, noise, count))


def test_each_parameter_is_told_given_the_others(trial: Callable[..., Trial]) -> None:
    trials, rates = search(trial, 60, noise=0.02)
    (rank, rate, augment), fit = partial_dependence(trials, PARAMS, rates, None)
    assert fit.curved and fit.needed == 12 and fit.explained is not None and fit.explained > 0.98
    typical = float(np.exp(np.log(rates).mean()))
    assert max(abs(value.effect) for value in rank.values) < 0.03 * typical
    told = {value.value: value.effect for value in augment.values}
    assert np.log1p(told["none"] / typical) - np.log1p(told["noise"] / typical) == pytest.approx(0.2, abs=0.03)
    assert min(rate.values, key=lambda value: value.effect) is rate.values[2]
    assert rate.values[2].value == pytest.approx(1e-4, rel=0.3)
    assert sum(value.count for value in rank.values) == sum(value.count for value in augment.values) == 60
    assert all(isinstance(value.value, int) for value in rank.values) and rank.method == "search"


def test_intervals_cover_what_was_planted(trial: Callable[..., Trial]) -> None:
    """Of a parameter that does nothing, over searches of few trials, with errors of unequal size."""
    covered = []
    for seed in range(100):
        trials, rates = search(trial, 20, noise=0.0, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        wide = np.array([0.05 if value.params["lora.r"] > 30 else 0.2 for value in trials])
        (rank, *_), _ = partial_dependence(trials, PARAMS, rates * np.exp(rng.normal(0, wide)), None)
        bounds = [value.interval for value in (rank.values[0], rank.values[-1])]
        covered += [interval is not None and interval.low <= 0 <= interval.high for interval in bounds]
    assert 0.92 <= np.mean(covered) <= 0.995


def test_the_luck_of_the_recordings_widens_intervals(trial: Callable[..., Trial]) -> None:
    trials, rates = search(trial, 30, noise=0.02)
    tilt = np.linspace(-1, 1, 30) * np.random.default_rng(0).normal(0, 0.1, (500, 1))

    def width(resampled: Any) -> float:
        interval = partial_dependence(trials, PARAMS, rates, resampled)[0][0].values[0].interval
        assert interval is not None
        return interval.high - interval.low

    assert width(rates * np.exp(tilt)) > 1.1 * width(None)
    everywhere = rates * np.random.default_rng(0).uniform(0.5, 2, (500, 1))
    assert width(everywhere) == pytest.approx(width(None))  # harder recordings are harder for all values


def test_few_trials_have_lines_and_fewer_nothing(trial: Callable[..., Trial]) -> None:
    trials, rates = search(trial, 10, noise=0.02)
    effects, fit = partial_dependence(trials, PARAMS, rates, None)
    assert len(effects) == 3 and not fit.curved and fit.needed == 8
    effects, fit = partial_dependence(trials[:7], PARAMS, rates[:7], None)
    assert effects == [] and fit.explained is None and (fit.trials, fit.needed) == (7, 8)


def test_parameters_that_change_together_are_not_told_apart(trial: Callable[..., Trial]) -> None:
    trials = [trial(str(number), a=2**number, b=3**number) for number in range(12)]
    effects, fit = partial_dependence(trials, ["a", "b"], np.linspace(0.1, 0.3, 12), None)
    assert effects == [] and fit.explained is None and fit.trials >= fit.needed


def test_a_useless_model_says_so_and_no_error_at_all_is_no_trouble(trial: Callable[..., Trial]) -> None:
    trials, _ = search(trial, 20, noise=0.0)
    rng = np.random.default_rng(5)
    assert (partial_dependence(trials, PARAMS, np.exp(rng.normal(-2, 1, 20)), None)[1].explained or 0.0) < 0.2
    effects, fit = partial_dependence(trials, PARAMS, np.zeros(20), None)
    assert fit.explained == 0.0 and all(value.effect == 0 for value in effects[0].values)


@pytest.mark.parametrize(("params", "curved"), [("a", None), ("b", None), ("ab", None), ("ac", True)])
def test_only_numbers_of_three_values_have_curves(
    trial: Callable[..., Trial], params: str, curved: bool | None
) -> None:
    tried = [{"a": 2 ** (n % 2), "b": "xyz"[n % 3], "c": n % 5} for n in range(16)]
    trials = [trial(str(n), **{name: one[name] for name in params}) for n, one in enumerate(tried)]
    rates = np.random.default_rng(0).uniform(0.1, 0.2, 16)
    assert partial_dependence(trials, list(params), rates, None)[1].curved is curved


def test_a_rate_without_errors_counts_the_same_in_all_resamples(trial: Callable[..., Trial]) -> None:
    """One tiny rate in one of them makes no trial without errors a thousand times better."""
    trials, rates = search(trial, 20, noise=0.02)
    rates[3] = 0.0
    resampled = np.tile(rates, (200, 1))
    resampled[::2, 3] = rates.max()

    def width(some: Any) -> float:
        interval = partial_dependence(trials, PARAMS, rates, some)[0][0].values[0].interval
        assert interval is not None
        return interval.high - interval.low

    resampled[0, 7] = 0.0
    usual = width(resampled)
    resampled[0, 7] = 1e-6
    assert width(resampled) == pytest.approx(usual)
