"""The half-split estimate: what the chosen one of equal trials makes of other recordings."""

from __future__ import annotations

import numpy as np

from multirun_analysis.statistics.selection import half_split
from multirun_analysis.statistics.tally import Tally

RATE, TRIALS, RECORDINGS = 0.1, 24, 40


def equal_trials(seed: int) -> Tally:
    """Trials of the same true rate, on 40 recordings of 200 characters."""
    rng = np.random.default_rng(seed)
    edits = rng.negative_binomial(4, 4 / (4 + 200 * RATE), size=(TRIALS, RECORDINGS))
    ones = np.ones(TRIALS, np.int64)
    return Tally([], edits, ones, np.full(RECORDINGS, 200), [f"r{number}" for number in range(RECORDINGS)])


def test_the_estimate_is_not_lowered_by_the_choice_as_the_best_rate_is() -> None:
    tallies = [equal_trials(seed) for seed in range(40)]
    best = np.mean([half_split(tally, list(range(TRIALS)), seed=0).lowest for tally in tallies])
    expected = np.mean([half_split(tally, list(range(TRIALS)), seed=0).expected for tally in tallies])
    assert best < 0.9 * RATE and abs(expected - RATE) < 0.02 * RATE


def test_it_is_the_mean_over_halves_of_what_the_better_trial_of_one_has_on_the_other() -> None:
    tally = equal_trials(1)
    alone = half_split(tally, [0], seed=3).expected
    assert abs(alone - tally.rates[0]) < 1e-3  # nothing is chosen: both halves have the rate on average
    assert half_split(tally, [0, 1], seed=3) == half_split(tally, [0, 1], seed=3)
    repeated = Tally([], 2 * tally.edits, 2 * tally.repeats, tally.chars, tally.recordings)
    assert np.isclose(half_split(repeated, [0, 1], seed=3).expected, half_split(tally, [0, 1], seed=3).expected)
