"""Intervals over recordings, against scipy, a plain loop and simulations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from experiments.simulated_trials import Speech
from kimi_audio_ft.scoring.intervals import (
    bootstrap_rates,
    error_rate_interval,
    error_rate_intervals,
    p_student,
    quantile,
    student_quantile,
)

Floats = NDArray[np.float64]


def resample_weights(recordings: Sequence[str], resamples: int, seed: int) -> Any:
    """How often each resample draws each recording: the rates of trials with a single edit, each in another one."""
    names = list(dict.fromkeys(recordings))
    rates = bootstrap_rates(np.eye(len(names)), np.ones(len(names)), names, resamples, seed)
    return np.rint(len(names) * rates).astype(int)


def clustered(seed: int, recordings: int = 50, each: int = 10, spread: float = 0.6) -> tuple[Floats, Floats, list[str]]:
    """Edits, characters and recordings of utterances whose recordings are unequally hard; 8 % wrong in the mean."""
    rng = np.random.default_rng(seed)
    rate = 0.08 * np.exp(spread * rng.standard_normal(recordings) - spread**2 / 2)
    chars = rng.integers(8, 40, size=(recordings, each)).astype(float)
    edits = rng.poisson(rate[:, None] * chars).astype(float)
    return edits.ravel(), chars.ravel(), [f"r{r}" for r in range(recordings) for _ in range(each)]


def test_weights_draw_as_many_recordings_as_there_are() -> None:
    weights = resample_weights(["a", "a", "b", "c", "b", "d"], resamples=20_000, seed=3)
    assert weights.shape == (20_000, 4)
    assert (weights.sum(axis=1) == 4).all() and weights.min() == 0
    # Each count is binomial(4, 1/4), and two of them are anticorrelated.
    assert weights.mean(axis=0) == pytest.approx([1] * 4, abs=0.03)
    assert weights.var(axis=0) == pytest.approx([0.75] * 4, abs=0.03)
    assert np.corrcoef(weights.T)[0, 1] == pytest.approx(-1 / 3, abs=0.03)


def test_weights_depend_on_the_seed_and_not_on_names() -> None:
    weights = resample_weights(list("abcdefg"), 100, seed=1)
    assert (weights == resample_weights(list("tuvwxyz"), 100, seed=1)).all()
    assert (weights != resample_weights(list("abcdefg"), 100, seed=2)).any()


def test_blocks_that_fit_into_memory_draw_what_one_table_would() -> None:
    """2.1 million weights: too many to be kept, in eleven blocks."""
    drawn = np.random.default_rng(1).integers(7, size=(300_000, 7))
    weights = np.stack([(drawn == recording).sum(axis=1) for recording in range(7)], axis=1)
    assert (weights == resample_weights(list("abcdefg"), 300_000, seed=1)).all()


def test_rates_are_those_of_the_drawn_recordings() -> None:
    names, chars = list("xyxzyw"), [3, 5, 7, 2, 4, 6]
    edits = [[1, 0, 2, 0, 1, 3], [0, 0.5, 1, 1, 0, 0]]
    found = bootstrap_rates(edits, chars, names, resamples=50, seed=4)
    for row, weights in zip(found, resample_weights(names, 50, seed=4), strict=True):
        times = [weights["xyzw".index(name)] for name in names]  # that each utterance is drawn with its recording
        assert row == pytest.approx(np.dot(edits, times) / np.dot(chars, times))


def test_a_quantile_between_two_infinities_is_infinite() -> None:
    """Student's t of differences without any error, of which there are many among few recordings."""
    assert quantile(np.array([1.0, 2.0, np.inf, np.inf]), 0.95) == np.inf
    assert quantile(np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 9.0]]), 0.75).tolist() == [3.0, 7.0]


@pytest.mark.parametrize("freedom", [1, 2, 4, 7, 38, 199])
def test_students_distribution_is_scipys(freedom: int) -> None:
    values = np.array([0.0, 0.3, 1.0, 2.5, 12.0])
    assert p_student(values, freedom) == pytest.approx(2 * stats.t.sf(values, freedom), abs=1e-12)
    for share in (0.6, 0.9, 0.975, 0.999):
        assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-7)


def test_the_jackknifes_interval_is_the_one_worked_out_by_leaving_recordings_out() -> None:
    edits, chars, names = clustered(5, recordings=12, each=4)
    by = [edits.reshape(12, 4).sum(axis=1), chars.reshape(12, 4).sum(axis=1)]
    rates = [np.delete(by[0], out).sum() / np.delete(by[1], out).sum() for out in range(12)]
    rate, error = edits.sum() / chars.sum(), np.sqrt(11 * np.var(rates))
    reach = stats.t.ppf(0.975, 11) * error / rate
    assert error_rate_interval(edits, chars, names) == pytest.approx((rate * np.exp(-reach), rate * np.exp(reach)))


def test_the_studentised_bootstrap_is_the_one_of_a_plain_loop() -> None:
    edits, chars, names = clustered(6, recordings=60, each=3)
    e, c = edits.reshape(60, 3).sum(axis=1), chars.reshape(60, 3).sum(axis=1)

    def rate_and_error(at: NDArray[np.int64]) -> tuple[float, float]:
        rate = e[at].sum() / c[at].sum()
        return rate, np.sqrt(((e[at] - rate * c[at]) ** 2).sum()) / c[at].sum()

    rate, error = rate_and_error(np.arange(60))
    drawn = np.random.default_rng(0).integers(60, size=(10_000, 60))
    studentised = [(one - rate) / its for one, its in map(rate_and_error, drawn)]
    high, low = np.quantile(studentised, [0.025, 0.975])
    assert error_rate_interval(edits, chars, names) == pytest.approx((rate - low * error, rate - high * error))


def test_copies_inside_a_recording_add_nothing() -> None:
    edits, chars, names = clustered(6, recordings=40, each=1)
    once = error_rate_interval(edits, chars, names)
    twenty = error_rate_interval(np.repeat(edits, 20), np.repeat(chars, 20), list(np.repeat(names, 20)))
    assert twenty == pytest.approx(once)
    apart = error_rate_interval(np.repeat(edits, 20), np.repeat(chars, 20), [str(n) for n in range(800)])
    assert once and apart
    assert (once[1] - once[0]) / (apart[1] - apart[0]) == pytest.approx(20**0.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("recordings", "least"), [(5, 0.92), (12, 0.92), (40, 0.92), (120, 0.92)])
def test_intervals_cover_the_truth(recordings: int, least: float) -> None:
    speech, rng = Speech(recordings), np.random.default_rng(recordings)
    truth, covered, sets = speech.true_rate(0.1), 0, 250
    for _ in range(sets):
        edits, chars = (values.reshape(-1, recordings, 8).sum(axis=2) for values in speech.edits(rng, [0.1]))
        ((low, high),) = error_rate_intervals(edits.astype(float), chars[0].astype(float))
        covered += low <= truth <= high
    assert least <= covered / sets <= 0.975


def test_utterances_as_units_give_intervals_that_are_too_narrow() -> None:
    edits, chars, names = clustered(7)
    of_recordings = error_rate_interval(edits, chars, names)
    of_utterances = error_rate_interval(edits, chars, [str(n) for n in range(len(names))])
    assert of_recordings and of_utterances
    assert of_recordings[1] - of_recordings[0] > 1.5 * (of_utterances[1] - of_utterances[0])


@pytest.mark.parametrize("recordings", [12, 60])
def test_errors_of_a_single_recording_and_no_errors_at_all(recordings: int) -> None:
    chars = [50] * recordings
    one = error_rate_interval([20] + [0] * (recordings - 1), chars, [str(n) for n in range(recordings)])
    assert one and 0 < one[0] < 20 / (50 * recordings) < one[1] < 1
    none = error_rate_interval([0] * recordings, chars, [str(n) for n in range(recordings)])
    assert none and none[0] == 0 and none[1] == pytest.approx(3.689 / (50 * recordings))


def test_few_recordings_give_no_interval() -> None:
    for count, known in ((1, False), (4, False), (5, True)):
        edits, chars, names = clustered(1, recordings=count, each=30)
        assert (error_rate_interval(edits, chars, names) is not None) == known


def test_references_without_a_character_count_bare_edits() -> None:
    assert error_rate_interval([1] * 5, [0] * 5, list("abcde")) == (5.0, 5.0)


def test_a_wider_level_gives_a_wider_interval() -> None:
    sample = clustered(3)
    narrow, wide = error_rate_interval(*sample, level=0.5), error_rate_interval(*sample, level=0.99)
    assert narrow and wide and wide[0] < narrow[0] < narrow[1] < wide[1]


def test_importing_scoring_imports_no_torch_scipy_or_pandas() -> None:
    code = "import sys, kimi_audio_ft.scoring.intervals; print({'scipy', 'pandas', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
