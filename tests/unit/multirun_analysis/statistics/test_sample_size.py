"""How many utterances would separate two trials: checked by drawing evaluation sets of that size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from multirun_analysis.statistics.sample_size import needed
from multirun_analysis.statistics.tally import Tally

Make = Callable[..., Tally]


def test_a_set_of_that_size_finds_the_difference_four_times_in_five(tally: Make) -> None:
    rng = np.random.default_rng(1)
    recordings = np.repeat(np.arange(40), 5)
    chars = rng.integers(10, 40, size=200)
    hard = np.exp(0.5 * rng.standard_normal((2, 40)))[:, recordings]
    edits = rng.poisson(np.array([[0.08], [0.085]]) * chars * hard)
    edits = edits[np.argsort(edits.sum(axis=1))]
    found = needed(tally(edits, chars, recordings))
    assert found and found.recordings and found.utterances
    assert found.recordings * 5 - 5 < found.utterances <= found.recordings * 5
    # Evaluation sets of so many recordings, drawn from these forty as from all there are.
    difference = (edits[0] - edits[1]).reshape(40, 5).sum(axis=1)
    drawn = rng.integers(40, size=(1500, found.recordings))
    p = stats.ttest_1samp(difference[drawn], 0, axis=1).pvalue
    assert abs((p < 0.05).mean() - 0.8) < 0.05


def test_equal_trials_are_never_separated(tally: Make) -> None:
    found = needed(tally([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0]], [9] * 5, range(5)))
    assert found and (found.utterances, found.recordings, found.power) == (None, None, 0.8)
    assert found.difference == 0


def test_a_clear_difference_needs_no_fewer_than_an_interval_does(tally: Make) -> None:
    found = needed(tally([[1] * 6, [5, 5, 5, 5, 5, 6]], [9] * 6, range(6)))
    assert found and (found.utterances, found.recordings) == (5, 5)
    assert found.difference == pytest.approx((6 - 31) / 54)


def test_it_is_unknown_for_one_trial_and_for_few_recordings(tally: Make) -> None:
    assert needed(tally([[1, 2, 3, 4, 5]], [9] * 5, range(5))) is None
    assert needed(tally([[1, 2, 3, 4], [2, 2, 2, 2]], [9] * 4, range(4))) is None
