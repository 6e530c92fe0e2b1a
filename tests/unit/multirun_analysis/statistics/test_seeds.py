"""The luck of seeds: its estimate, and the promises of a verdict that knows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from experiments.simulated_trials import Seeds, Speech, of_sweeps
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.pairs import all_pairs, degrees_of_freedom, standard_errors
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.results import Gain
from multirun_analysis.statistics.sample_size import needed, needed_for
from multirun_analysis.statistics.seeds import seed_errors
from multirun_analysis.statistics.summary import intervals_of_means, resampled_means
from multirun_analysis.statistics.tally import Tally, of_settings

Make = Callable[..., Tally]


def test_the_spread_of_a_small_example_worked_out_by_hand() -> None:
    # Totals 10 and 14 (mean 12), 30 and 30: relative squares (1/6)^2 * 2 + 0 = 1/18, over 2 degrees of freedom.
    settings = [np.array([[4.0, 6], [6, 8]]), np.array([[10.0, 20], [10, 20]]), np.array([[50.0, 50]])]
    found = seed_errors(settings, [True, True, True])
    assert found and found.freedom.tolist() == [2] and found.count.tolist() == [2, 2, 1]
    spread = np.sqrt(1 / 36)
    assert found.spread == pytest.approx([spread])
    assert found.own == pytest.approx([spread / np.sqrt(2), spread / np.sqrt(2), spread])
    assert found.shared == pytest.approx([0, 0, 0])  # both seeds differ alike in both recordings


def test_a_setting_without_errors_leaves_the_luck_of_the_others() -> None:
    settings = [np.array([[4.0, 6], [6, 8]]), np.zeros((2, 2))]
    found = seed_errors(settings, [True, True], adapters=["a", "a"])
    assert found and np.isfinite(found.alike).all() and found.own[0] > 0


def test_what_recordings_and_seeds_share_is_taken_off_once() -> None:
    # Residuals +-1 in every cell: 4 / (1 * 1) per cell of a total of two recordings, relative to the mean total of 12.
    found = seed_errors([np.array([[4.0, 8], [6, 6]])], [True])
    assert found and found.own == pytest.approx([0.0]) and found.shared == pytest.approx([0.0])
    found = seed_errors([np.array([[4.0, 8], [6, 10]]), np.array([[4.0, 8], [8, 6]])], [True, True])
    assert found and 0 < found.shared[0] <= found.own[0]


def test_a_base_has_no_luck_and_one_seed_alone_tells_of_none() -> None:
    edits = [np.array([[4.0, 6], [6, 8]]), np.array([[40.0, 60], [60, 80]])]
    found = seed_errors(edits, [True, False])
    assert found and found.own[1] == 0 and found.freedom.tolist() == [1]
    assert seed_errors([one[:1] for one in edits], [True, True]) is None
    assert seed_errors([one * 0 for one in edits], [True, True]) is None


def test_a_setting_that_diverges_with_one_seed_does_not_spoil_the_others() -> None:
    rng = np.random.default_rng(0)
    calm = [1000 * (1 + 0.03 * rng.normal(size=(3, 1))) * np.ones((3, 20)) for _ in range(6)]
    wild = np.array([[1000.0], [9000.0], [1100.0]]) * np.ones((3, 20))
    found = seed_errors([*calm, wild], [True] * 7)
    assert found and found.freedom.tolist() == [12, 2] and found.pool.tolist() == [0] * 6 + [1]
    assert found.spread[0] < 0.05 < 0.9 < found.spread[1]


def test_settings_with_the_same_adapters_share_their_luck() -> None:
    rng = np.random.default_rng(4)
    adapters = 1000 * (1 + 0.05 * rng.normal(size=(4, 3, 1))) * np.ones((4, 3, 20))
    settings = [one * factor for one in adapters for factor in (1.0, 1.1)]
    found = seed_errors(settings, [True] * 8, [number // 2 for number in range(8)])
    assert found and found.freedom.tolist() == [8]  # two for each of four trainings
    assert found.alike[0, 1] == pytest.approx(1.0) and found.alike[0, 2] == 0
    errors = found.between(found.own)
    assert errors[0, :3] == pytest.approx([0, 0, 2 * found.own[0] ** 2])
    luck, _ = found.drawn(rng, 100)
    assert luck[:, 0] == pytest.approx(luck[:, 1])


def by_seed(tally: Make, speech: Speech, seeds: Seeds, rng: np.random.Generator) -> tuple[Tally, Tally]:
    """A simulated sweep by adapters and by settings."""
    edits, chars = speech.edits(rng, seeds.rates(rng))
    made, at = tally(edits, chars, speech.names), np.cumsum([0, *seeds.numbers])
    settings = [Setting(made.trials[start:end]) for start, end in pairwise(at)]
    return made, of_settings(made, settings)


def test_a_setting_has_the_mean_edits_of_its_seeds(tally: Make) -> None:
    made, merged = by_seed(tally, Speech(recordings=10), Seeds([0.1, 0.2], [2, 1]), np.random.default_rng(0))
    assert merged.trials == [made.trials[0], made.trials[2]] and merged.seeds is not None
    assert merged.mean_edits == pytest.approx(np.stack([made.mean_edits[:2].mean(axis=0), made.mean_edits[2]]))
    alone = of_settings(made, [Setting([trial]) for trial in made.trials])
    assert alone is made


def test_without_luck_settings_are_compared_as_trials_are(tally: Make) -> None:
    """Two seeds with the same edits: the means are those of single trials, and so is every p."""
    edits, chars = Speech(recordings=30).edits(np.random.default_rng(1), [0.1, 0.11, 0.12])
    made = tally(np.repeat(edits, 2, axis=0), chars, Speech(recordings=30).names)
    merged = of_settings(made, [Setting(made.trials[row : row + 2]) for row in (0, 2, 4)])
    single = tally(edits, chars, Speech(recordings=30).names)
    ours, theirs = randomise(merged.whole_edits, 0, merged.seeds), randomise(single.whole_edits, 0)
    assert ours.p_pairs == pytest.approx(theirs.p_pairs) and ours.p_best == pytest.approx(theirs.p_best)
    assert ours.critical == pytest.approx(theirs.critical, rel=1e-4)
    assert standard_errors(merged) == pytest.approx(standard_errors(single))


def test_errors_are_wider_with_seeds_and_their_degrees_of_freedom_between(tally: Make) -> None:
    speech, seeds = Speech(recordings=40), Seeds([0.1, 0.1, 0.11], [3, 3, 3], spread=0.2)
    _, merged = by_seed(tally, speech, seeds, np.random.default_rng(2))
    plain = Tally(merged.trials, merged.edits, merged.repeats, merged.chars, merged.recordings)
    apart = ~np.eye(3, dtype=bool)
    assert (standard_errors(merged) > 1.5 * standard_errors(plain))[apart].all()
    freedom = degrees_of_freedom(merged)[apart]
    assert (freedom >= 6).all() and (freedom < 12).all()
    pair = all_pairs(merged, randomise(merged.whole_edits, 0, merged.seeds))[0]
    assert pair.interval and pair.interval.low < pair.difference < pair.interval.high


def test_where_seeds_are_what_is_lacking_seeds_are_what_is_needed(tally: Make) -> None:
    speech = Speech(recordings=100)
    found = []
    for spread in (0.0, 0.15):
        _, merged = by_seed(tally, speech, Seeds([0.1, 0.115], [3, 3], spread), np.random.default_rng(3))
        found.append(needed(merged, randomise(merged.whole_edits, 0, merged.seeds)))
    few, many = found
    assert few and few.seeds is None and many and many.seeds and many.seeds > 3


def test_seeds_are_needed_to_show_a_gain_too(tally: Make) -> None:
    """Of a setting over the base, which has no luck of seeds."""
    speech = Speech(recordings=100)
    made, _ = by_seed(tally, speech, Seeds([0.1, 0.11], [3, 1], 0.2), np.random.default_rng(0))
    base = replace(made.trials[-1], is_base=True)
    merged = of_settings(replace(made, trials=[*made.trials[:-1], base]), [Setting(made.trials[:3]), Setting([base])])
    rates = merged.rates.tolist()
    gain = Gain(merged.trials[0], base, rates[0] - rates[1], rates[1])
    found = needed_for(gain, merged, randomise(merged.whole_edits, 0, merged.seeds))
    assert found and found.difference < 0 and found.seeds and found.seeds > 3


def test_intervals_of_means_and_effects_cover_what_they_say(tally: Make) -> None:
    """Adapters with much luck of their own in single recordings: counted in recordings and in seeds, it would widen
    the effects' intervals to 99 %."""
    speech, rng, covered, effects = Speech(recordings=30, utterances=4, shared=0.7), np.random.default_rng(1), [], []
    truth = speech.true_rate(0.1)
    for _ in range(60):
        _, merged = by_seed(tally, speech, Seeds([0.1] * 6, [2] * 6), rng)
        assert merged.seeds is not None and (merged.seeds.beside_recordings <= merged.seeds.own).all()
        covered += [one.low <= truth <= one.high for one in intervals_of_means(merged)]
        drawn = resampled_means(merged, 1000)
        assert drawn is not None
        low, high = np.percentile(drawn - drawn.mean(axis=1, keepdims=True), [2.5, 97.5], axis=0)
        effects += ((low <= 0) & (high >= 0)).tolist()
    assert 0.90 <= np.mean(covered) <= 0.985 and 0.90 <= np.mean(effects) <= 0.975


def test_equal_settings_are_called_different_in_one_sweep_of_twenty() -> None:
    """Without the seeds in it, the same test calls some of them different in two of five."""
    speech, seeds = Speech(recordings=60, utterances=4, shared=0.95), Seeds([0.1] * 4, [2] * 4, spread=0.06)
    found = of_sweeps(speech, seeds, sweeps=40, seed=5)
    assert found.different <= 0.125 and found.different_adapters >= 0.3 and found.best_lost <= 0.125
