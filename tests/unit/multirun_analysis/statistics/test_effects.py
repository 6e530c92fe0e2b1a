"""Main effects of swept values, where the truth is additive and where it is hidden by missing trials."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multirun_analysis.statistics.effects import main_effects
from multirun_analysis.sweep import Trial

Floats = NDArray[np.float64]
RANK = {8: 0.02, 16: -0.01, 32: -0.01}
RATE = {2e-5: 0.03, 5e-5: -0.03}
PARAMS = ["lora.r", "optim.lr"]


def grid(trial: Callable[..., Trial]) -> tuple[list[Trial], Floats]:
    """Six trials whose CER is 0.1 plus the effect of the rank plus that of the rate."""
    points = list(itertools.product(RANK, RATE))
    trials = [trial(str(n), **{"lora.r": r, "optim.lr": lr}) for n, (r, lr) in enumerate(points)]
    return trials, np.array([0.1 + RANK[r] + RATE[lr] for r, lr in points])


def effects(found: Any) -> dict[Any, float]:
    return {value.value: value.effect for value in found.values}


def test_a_complete_grid_gives_the_planted_effects(trial) -> None:
    trials, cers = grid(trial)
    rank, rate = main_effects(trials, PARAMS, cers, None)
    assert rank.method == rate.method == "grid"
    assert effects(rank) == pytest.approx(RANK) and effects(rate) == pytest.approx(RATE)
    assert [value.count for value in rank.values] == [2, 2, 2] and rank.values[0].interval is None


def test_a_missing_trial_does_not_tilt_the_effects(trial) -> None:
    trials, cers = grid(trial)
    kept = [0, 2, 3, 4, 5]  # without rank 8 at the good rate
    rank, rate = main_effects([trials[n] for n in kept], PARAMS, cers[kept], None)
    assert rank.method == "additive"
    assert effects(rank) == pytest.approx(RANK) and effects(rate) == pytest.approx(RATE)
    assert rank.values[0].count == 1


def test_what_cannot_be_told_apart_is_called_confounded(trial) -> None:
    trials, cers = grid(trial)
    kept = [0, 3, 5]  # rank 8 at the one rate, 16 and 32 at the other
    rank, _ = main_effects([trials[n] for n in kept], PARAMS, cers[kept], None)
    assert rank.method == "confounded"
    plain = cers[kept] - cers[kept].mean()
    assert list(effects(rank).values()) == pytest.approx(plain)


def test_intervals_are_those_of_the_resampled_effects(trial) -> None:
    trials, cers = grid(trial)
    resampled = cers + np.random.default_rng(0).normal(0, 0.01, size=(4000, 6))
    rank = main_effects(trials, PARAMS, cers, resampled)[0]
    at_8 = resampled[:, :2].mean(axis=1) - resampled.mean(axis=1)
    low, high = np.quantile(at_8, [0.025, 0.975])
    interval = rank.values[0].interval
    assert interval and (interval.low, interval.high) == pytest.approx((low, high))


def test_what_all_trials_share_cancels_out_of_the_intervals(trial) -> None:
    trials, cers = grid(trial)
    resampled = cers + np.random.default_rng(0).normal(0, 0.05, size=(1000, 1))
    interval = main_effects(trials, PARAMS, cers, resampled)[0].values[0].interval
    assert interval and interval.high - interval.low < 1e-9


def test_repeated_seeds_at_every_point_are_still_a_grid(trial) -> None:
    trials, cers = grid(trial)
    found = main_effects(trials + trials, PARAMS, np.tile(cers, 2), None)
    assert found[0].method == "grid" and effects(found[0]) == pytest.approx(RANK)


def test_a_parameter_with_one_value_has_no_effect(trial) -> None:
    trials, cers = grid(trial)
    assert [one.param for one in main_effects(trials[:2], PARAMS, cers[:2], None)] == ["optim.lr"]


def test_words_and_missing_values_are_values(trial) -> None:
    trials = [trial("0", lora="dora"), trial("1")]
    found = main_effects(trials, ["lora"], np.array([0.1, 0.3]), None)[0]
    assert effects(found) == pytest.approx({"dora": -0.1, None: 0.1})
