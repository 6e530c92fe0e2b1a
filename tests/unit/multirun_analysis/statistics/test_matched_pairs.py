"""The matched-pairs test against scipy and figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kimi_audio_ft.scoring.intervals import p_student
from multirun_analysis.statistics.matched_pairs import matched_pairs, p_normal


def test_the_statistic_of_a_small_example_worked_out_by_hand() -> None:
    # Differences 1 0 2 -1 1 0 1 0: mean 0.5; squared deviations 3 * 0.25 + 3 * 0.25 + 2.25 + 2.25 = 6, over 7;
    # W = 0.5 / sqrt(6 / 7 / 8) = 1.5275, and the table of the normal distribution has 2 * (1 - 0.93668).
    statistic = matched_pairs(np.array([1.0, 0, 2, -1, 1, 0, 1, 0]))
    assert statistic == pytest.approx(1.5275, abs=1e-4)
    assert p_normal(statistic) == pytest.approx(0.12664, abs=1e-4)


@pytest.mark.parametrize("segments", [5, 50, 1000])
def test_it_is_scipys_paired_t_test(segments: int) -> None:
    rng = np.random.default_rng(segments)
    first, second = rng.poisson(2.0, size=(2, 7, segments)).astype(float)
    theirs = stats.ttest_rel(first, second, axis=1)
    ours = matched_pairs(first - second)
    assert ours == pytest.approx(theirs.statistic)
    assert p_student(ours, segments - 1) == pytest.approx(theirs.pvalue)
    assert p_normal(ours) == pytest.approx(2 * stats.norm.sf(np.abs(theirs.statistic)))


def test_no_difference_has_a_p_of_one_and_the_same_everywhere_is_certain() -> None:
    statistic = matched_pairs(np.zeros((2, 9)))
    assert statistic.tolist() == [0, 0] and p_student(statistic, 8).tolist() == [1, 1]
    assert p_student(matched_pairs(np.full((1, 9), 2.0)), 8).tolist() == [0]
