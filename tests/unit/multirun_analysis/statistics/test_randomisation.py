"""Tests of many trials at once: against scipy and every possible flip, and how often they are right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.simulated_trials import Speech
from multirun_analysis.statistics.randomisation import FLIPS, randomise, t_of


def by_recording(speech: Speech, rng: np.random.Generator, rates: list[float]) -> np.ndarray:
    edits, _ = speech.edits(rng, rates)
    return edits.reshape(len(rates), speech.recordings, -1).sum(axis=2).astype(float)


def test_the_measure_of_a_difference_becomes_students_t() -> None:
    edits = np.random.default_rng(1).poisson(9, size=(2, 30)).astype(float)
    difference = edits[0] - edits[1]
    measure = difference.sum() / np.sqrt(30 * (difference**2).sum())
    assert t_of(np.array(measure), 30) == pytest.approx(stats.ttest_rel(*edits).statistic)
    assert t_of(np.array([1.0, -1.0]), 30).tolist() == [np.inf, -np.inf]


def test_a_single_pair_is_scipys_randomisation_test() -> None:
    edits = np.random.default_rng(2).poisson([[9], [10.5]], size=(2, 25)).astype(float)
    theirs = stats.permutation_test(
        edits, lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(3), vectorized=True,
    )  # fmt: skip
    found = randomise(edits)
    assert found.p_pairs[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_few_recordings_give_what_all_their_flips_give() -> None:
    edits = np.array([[1, 2, 0, 3, 1, 2], [2, 3, 2, 4, 3, 2], [4, 3, 1, 5, 2, 4]], dtype=float)
    pairs = list(itertools.combinations(range(3), 2))
    differences = np.stack([edits[first] - edits[second] for first, second in pairs])
    size = np.abs(differences.sum(axis=1)) / np.sqrt((differences**2).sum(axis=1))
    flips = np.array(list(itertools.product([-1, 1], repeat=6)))
    null = np.abs(flips @ differences.T) / np.sqrt((differences**2).sum(axis=1))
    largest = sorted(range(3), key=lambda pair: -size[pair])
    p, least = {}, 0.0
    for place, pair in enumerate(largest):
        least = p[pair] = max(least, (null[:, largest[place:]].max(axis=1) >= size[pair] - 1e-12).mean())
    assert randomise(edits).p_pairs == pytest.approx([p[pair] for pair in range(3)], abs=0.03)


def test_equal_trials_are_told_apart_by_nothing() -> None:
    edits = np.tile(np.arange(8.0), (3, 1))
    found = randomise(edits)
    assert found.p_pairs.tolist() == [1, 1, 1] and found.p_best.tolist() == [1, 1, 1]
    assert randomise(edits[:1]).p_best.tolist() == [1]


def test_the_same_data_give_the_same_figures_and_the_least_p_is_not_zero() -> None:
    edits = by_recording(Speech(), np.random.default_rng(5), [0.1, 0.3])
    once, again = randomise(edits), randomise(edits)
    assert (once.p_pairs == again.p_pairs).all() and (once.critical == again.critical).all()
    assert once.p_pairs[0] == pytest.approx(1 / (FLIPS + 1)) and once.p_best[1] == pytest.approx(1 / (FLIPS + 1))


@pytest.mark.parametrize(
    ("seed", "confidence_set"),
    [
        (0, [0, 1, 2, 3, 4, 5, 6, 7, 11]),
        (1, [0, 1, 2, 3, 4, 5, 6, 7, 9]),
        (2, [0, 1, 2, 3, 5, 7]),
        (3, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_best_group_lies_inside_the_model_confidence_set(seed: int, confidence_set: list[int]) -> None:
    """As arch 8.0.0 finds it at 5 % (``MCS(edits.T, 0.05, reps=10_000, block_size=1, method="max", seed=1)``).

    The set of Hansen, Lunde and Nason (2011) keeps all of the best with 95 %, Hsu's group any one of them.
    """
    edits = by_recording(Speech(60, shared=0.88), np.random.default_rng(seed), np.linspace(0.09, 0.13, 12).tolist())
    group = set(np.flatnonzero(randomise(edits).p_best >= 0.05).tolist())
    assert 0 in group and group < set(confidence_set) and len(group) >= len(confidence_set) / 3


@pytest.mark.slow
def test_equal_trials_rarely_win_and_the_best_is_kept() -> None:
    """Twelve trials: any pair called different, or the truly best one ruled out, in 5 % of sweeps."""
    speech, rng, sweeps = Speech(recordings=60, shared=0.9), np.random.default_rng(6), 80
    any_pair = lost = 0
    for _ in range(sweeps):
        any_pair += bool((randomise(by_recording(speech, rng, [0.1] * 12)).p_pairs < 0.05).any())
        lost += randomise(by_recording(speech, rng, [0.095] + [0.1] * 11)).p_best[0] < 0.05
    assert any_pair <= 8 and lost <= 7


@pytest.mark.slow
def test_comparisons_with_the_best_find_more_than_all_pairs_do() -> None:
    """Of trials that are a tenth worse than the best: what verdict.md reports for 36, here for 12."""
    speech, rng = Speech(recordings=125, shared=0.9), np.random.default_rng(7)
    ruled_out = different = 0.0
    for _ in range(40):
        found = randomise(by_recording(speech, rng, [0.09] + [0.1] * 11))
        ruled_out += (found.p_best[1:] < 0.05).mean() / 40
        different += (found.p_pairs[:11] < 0.05).mean() / 40
    assert ruled_out > different + 0.1 and ruled_out > 0.35
