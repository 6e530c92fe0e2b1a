"""How many utterances would separate two trials: checked by drawing evaluation sets of that size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from experiments.simulated_trials import Speech
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import Gain, Needed
from multirun_analysis.statistics.sample_size import needed, needed_for
from multirun_analysis.statistics.tally import Tally

Make = Callable[..., Tally]


def need(tally: Tally) -> Needed | None:
    return needed(tally, randomise(tally.whole_edits))


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "second"), [(2, 0.102), (12, 0.097)])
def test_a_set_of_that_size_rules_the_second_out_four_times_in_five(tally: Make, trials: int, second: float) -> None:
    """Evaluation sets of so many recordings, drawn from these as from all there are."""
    rng, speech = np.random.default_rng(trials), Speech(recordings=50)
    edits, chars = speech.edits(rng, [0.09, second] + [0.12] * (trials - 2))
    edits = edits[np.argsort(edits.sum(axis=1))]
    found = need(tally(edits, chars, speech.names))
    assert found and found.recordings and found.utterances
    assert found.recordings * 8 - 8 < found.utterances <= found.recordings * 8
    sums, sets = edits.reshape(trials, 50, 8).sum(axis=2).astype(float), 120
    drawn = rng.integers(50, size=(sets, found.recordings))
    power = np.mean([randomise(sums[:, one]).p_best[1] < 0.05 for one in drawn])
    assert 0.70 <= power <= 0.90


def with_base(made: Tally) -> tuple[Tally, Gain]:
    """The last trial made the base, and the first one's gain over it."""
    base = replace(made.trials[-1], is_base=True)
    rates = made.rates.tolist()
    gain = Gain(made.trials[0], base, rates[0] - rates[-1], rates[-1])
    return replace(made, trials=[*made.trials[:-1], base]), gain


def test_a_set_of_that_size_shows_the_gain_over_the_base_four_times_in_five(tally: Make) -> None:
    """By the verdict's own test, which is adjusted for all pairs of six trials."""
    rng, speech = np.random.default_rng(7), Speech(recordings=50)
    edits, chars = speech.edits(rng, [0.09, 0.092, 0.094, 0.094, 0.098, 0.102])
    edits = edits[np.argsort(edits.sum(axis=1))]
    made, gain = with_base(tally(edits, chars, speech.names))
    randomised = randomise(made.whole_edits)
    found = needed_for(gain, made, randomised)
    assert found and found.recordings and found.second is gain.base and randomised.p_pairs[4] > 0.05
    sums = edits.reshape(6, 50, 8).sum(axis=2).astype(float)
    drawn = rng.integers(50, size=(100, found.recordings))
    power = np.mean([randomise(sums[:, one]).p_pairs[4] < 0.05 for one in drawn])
    assert 0.70 <= power <= 0.92


def test_no_number_shows_a_gain_that_is_none_or_was_not_compared(tally: Make) -> None:
    made, gain = with_base(tally([[1, 0, 1, 0, 1], [0, 1, 2, 1, 0]], [9] * 5, range(5)))
    randomised = randomise(made.whole_edits)
    assert needed_for(gain, made, randomised) is not None
    assert needed_for(replace(gain, difference=0.1), made, randomised) is None
    assert needed_for(replace(gain, base=made.trials[0], trial=replace(gain.base)), made, randomised) is None


def test_few_recordings_that_all_differ_alike_have_a_number_too(tally: Make) -> None:
    """No flip of five is rare enough: the second one's critical value is infinite, and there is no error beside it."""
    made = tally([[1, 2, 1, 0, 1], [2, 3, 2, 1, 2], [3, 4, 3, 2, 3]], [9] * 5, range(5))
    assert np.isinf(randomise(made.whole_edits).critical[1])
    found = need(made)
    assert found and (found.recordings, found.utterances) == (6, 6)  # those that there are cannot show it


def test_equal_trials_are_never_separated(tally: Make) -> None:
    found = need(tally([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0]], [9] * 5, range(5)))
    assert found and (found.utterances, found.recordings, found.power) == (None, None, 0.8)
    assert found.difference == 0


def test_a_clear_difference_needs_no_fewer_than_an_interval_does(tally: Make) -> None:
    found = need(tally([[1] * 6, [5, 5, 5, 5, 5, 6]], [9] * 6, range(6)))
    assert found and (found.utterances, found.recordings) == (5, 5)
    assert found.difference == pytest.approx((6 - 31) / 54)


def test_it_is_unknown_for_one_trial(tally: Make) -> None:
    assert need(tally([[1, 2, 3, 4, 5]], [9] * 5, range(5))) is None
