"""Paired comparisons: against scipy, and how often they are right where the truth was planted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from multirun_analysis.statistics.pairs import all_pairs
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import Pair
from multirun_analysis.statistics.tally import Tally
from tests.synthetic_errors import Corpus, ErrorModel, Planted

Make = Callable[..., Tally]
# Of the trials in a planted sweep, relative to the best one.
FACTORS = (1.0, 1.0, 1.1, 1.15, 1.3, 1.3)


def pairs_of(tally: Tally) -> list[Pair]:
    return all_pairs(tally, randomise(tally.whole_edits))


def planted(make: Make, corpus: Corpus, seed: int, **truth: float) -> list[Pair]:
    """All pairs of a sweep of ``FACTORS``; the first is of two equal trials, the second of 10 % relative difference."""
    model = ErrorModel(corpus, Planted(**truth), seed)
    counts = [model.counts(model.errors(f"adapter {n}", 0.08 * factor)) for n, factor in enumerate(FACTORS)]
    return pairs_of(make(counts, corpus.lengths, corpus.recording_of))


def test_each_pair_comes_once_with_its_difference(tally: Make) -> None:
    found = pairs_of(tally([[1, 0, 2, 0, 1], [2, 1, 2, 0, 1], [4, 4, 4, 4, 4]], [10] * 5, "abcde"))
    assert [(pair.first.name, pair.second.name) for pair in found] == [("0", "1"), ("0", "2"), ("1", "2")]
    assert [pair.difference for pair in found] == pytest.approx([-0.04, -0.32, -0.28])


def test_repeats_count_as_means(tally: Make) -> None:
    rng = np.random.default_rng(1)
    edits = rng.poisson(2.0, size=(2, 60))
    once = pairs_of(tally(edits, [20] * 60, range(60)))[0]
    thrice = pairs_of(tally(3 * edits, [20] * 60, range(60), repeats=3))[0]
    assert thrice.difference == pytest.approx(once.difference) and thrice.p_adjusted == once.p_adjusted
    assert thrice.p_mapsswe == pytest.approx(once.p_mapsswe)


def test_interval_and_tests_are_scipys(tally: Make) -> None:
    rng = np.random.default_rng(2)
    chars = rng.integers(8, 40, size=200)
    first, second = rng.poisson(0.10 * chars), rng.poisson(0.13 * chars)
    pair = pairs_of(tally([first, second], chars, range(200)))[0]
    test = stats.ttest_rel(first, second)
    bounds = test.confidence_interval(0.95)
    theirs = (bounds.low / chars.mean(), bounds.high / chars.mean())
    assert pair.interval and (pair.interval.low, pair.interval.high) == pytest.approx(theirs)
    assert pair.p_recordings == pytest.approx(test.pvalue)
    assert pair.p_adjusted == pytest.approx(test.pvalue, abs=0.01)
    assert pair.p_mapsswe == pytest.approx(2 * stats.norm.sf(abs(test.statistic)))


def test_recordings_are_the_segments_of_the_deciding_test(tally: Make) -> None:
    rng = np.random.default_rng(4)
    recordings = np.repeat(np.arange(30), 10)
    edits = rng.poisson(2.0, size=(2, 300))
    pair = pairs_of(tally(edits, [20] * 300, recordings))[0]
    sums = edits.reshape(2, 30, 10).sum(axis=2)
    assert pair.p_recordings == pytest.approx(stats.ttest_rel(*sums).pvalue)
    assert pair.p_mapsswe == pytest.approx(2 * stats.norm.sf(abs(stats.ttest_rel(*edits).statistic)))


def test_too_few_recordings_give_differences_without_verdicts(tally: Make) -> None:
    pair = all_pairs(tally([[1, 2], [2, 3]], [10, 10], "ab"), None)[0]
    assert pair.difference == pytest.approx(-0.1) and not pair.is_significant
    assert (pair.interval, pair.p_mapsswe, pair.p_recordings, pair.p_adjusted) == (None,) * 4


def test_no_difference_is_rarely_called_one_and_ten_percent_are_found(tally: Make) -> None:
    corpus = Corpus(utterances=1000, recordings=50, seed=0)
    found = [planted(tally, corpus, seed, recording_spread=0.4, trial_spread=0.05) for seed in range(100)]
    assert sum(pairs[0].is_significant for pairs in found) <= 5
    assert sum(pairs[1].is_significant for pairs in found) >= 90  # power, which depends on how much the trials share


def test_alike_utterances_of_a_recording_do_not_fool_the_verdict(tally: Make) -> None:
    """Two equal trials each of which some recordings suit: over utterances the test is wrong every third time."""
    corpus = Corpus(utterances=1000, recordings=50, seed=0)
    found = [planted(tally, corpus, seed, trial_spread=0.4) for seed in range(100)]
    assert sum(pairs[0].is_significant for pairs in found) <= 5
    assert sum((pairs[0].p_recordings or 0) < 0.05 for pairs in found) <= 10  # uncorrected, as exact as a test can be
    assert sum((pairs[0].p_mapsswe or 0) < 0.05 for pairs in found) > 20
