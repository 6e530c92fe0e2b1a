"""Bootstrap intervals over recordings, against scipy, a plain loop and simulations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from kimi_audio_ft.scoring.intervals import bootstrap_interval, bootstrap_rates

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
    """2.1 million weights, where two million are held at a time."""
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


def test_the_interval_is_scipys_where_each_recording_is_one_utterance() -> None:
    edits, chars, _ = clustered(5, recordings=300, each=1)
    ours = bootstrap_interval(edits, chars, [str(n) for n in range(300)], seed=1)
    rate: Callable[..., Floats] = lambda e, c, axis: e.sum(axis=axis) / c.sum(axis=axis)  # noqa: E731
    theirs = stats.bootstrap(
        (edits, chars), rate, paired=True, method="percentile", n_resamples=9999, rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)


def test_copies_inside_a_recording_add_nothing() -> None:
    edits, chars, names = clustered(6, recordings=40, each=1)
    once = bootstrap_interval(edits, chars, names)
    twenty = bootstrap_interval(np.repeat(edits, 20), np.repeat(chars, 20), list(np.repeat(names, 20)))
    assert twenty == pytest.approx(once)
    apart = bootstrap_interval(np.repeat(edits, 20), np.repeat(chars, 20), [str(n) for n in range(800)])
    assert once and apart
    assert (once[1] - once[0]) / (apart[1] - apart[0]) == pytest.approx(20**0.5, rel=0.1)


@pytest.mark.slow
def test_intervals_cover_the_truth_where_utterances_as_units_do_not() -> None:
    covered = np.zeros(2)
    for seed in range(200):
        edits, chars, names = clustered(seed)
        for place, units in enumerate((names, [str(n) for n in range(len(names))])):
            found = bootstrap_interval(edits, chars, units, resamples=1000, seed=seed)
            assert found
            covered[place] += found[0] <= 0.08 <= found[1]
    assert covered[0] / 200 > 0.88  # 0.95 but for the percentiles' optimism with 50 recordings of skewed difficulty
    assert covered[1] / 200 < 0.75


def test_few_recordings_give_no_interval() -> None:
    for count, known in ((1, False), (4, False), (5, True)):
        edits, chars, names = clustered(1, recordings=count, each=30)
        assert (bootstrap_interval(edits, chars, names) is not None) == known


def test_references_without_a_character_count_bare_edits() -> None:
    assert bootstrap_interval([1] * 5, [0] * 5, list("abcde")) == (5.0, 5.0)


def test_a_wider_level_gives_a_wider_interval() -> None:
    sample = clustered(3)
    narrow, wide = bootstrap_interval(*sample, level=0.5), bootstrap_interval(*sample, level=0.99)
    assert narrow and wide and wide[0] < narrow[0] < narrow[1] < wide[1]


def test_importing_scoring_imports_no_torch_scipy_or_pandas() -> None:
    code = "import sys, kimi_audio_ft.scoring.intervals; print({'scipy', 'pandas', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
