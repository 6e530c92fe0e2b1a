"""Which trials are not ruled out as the best, and which one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments.simulated_trials import Speech
from multirun_analysis.statistics.randomisation import randomise
from multirun_analysis.statistics.recommendation import best_group, recommend, standings
from multirun_analysis.statistics.results import Reason, Standing
from multirun_analysis.statistics.tally import Tally
from multirun_analysis.sweep import Trial

Make = Callable[..., Trial]


def test_the_group_are_those_that_are_not_ruled_out_and_the_lowest(trial: Make) -> None:
    a, b, c, d = (trial(name, cer=0.1 + 0.01 * number) for number, name in enumerate("abcd"))
    found = best_group(
        [
            Standing(a, 0.04, 0.0, a.cer),
            Standing(b, 0.2, 0.01, b.cer),
            Standing(c, 0.049, 0.1, c.cer),
            Standing(d, 0.05, 0.1, d.cer),
        ]
    )
    assert found == [a, b, d]


def costing(trial: Make, name: str, parameters: int | None, steps: int = 100, temperature: float = 0.0) -> Trial:
    record: dict[str, Any] = {"trainable_parameters": parameters, "steps": steps}
    return trial(name, cer=0.1, record=record, **{"decoding.text_temperature": temperature})


@pytest.mark.parametrize(
    ("group", "taken", "reason"),
    [
        ([("a", 320)], "a", Reason.ALONE),
        ([("a", 320), ("b", 160), ("c", 80)], "c", Reason.CHEAPER),
        ([("a", 80), ("b", 160)], "a", Reason.LOWEST),
        ([("a", 80), ("b", 80)], "a", Reason.LOWEST),
        ([("a", 80, 200), ("b", 160, 50), ("c", 80, 100)], "c", Reason.CHEAPER),
        ([("a", 80, 100, 0.1), ("b", 80, 100, 0.0)], "b", Reason.CHEAPER),
        ([("a", 80, 100, 0.3), ("b", 80, 100, 0.1)], "a", Reason.LOWEST),
        ([("a", 80, 100, 0.3), ("b", 80, 200, 0.0)], "a", Reason.LOWEST),
        ([("a", 80), ("b", None)], "a", Reason.LOWEST),
    ],
)
def test_the_cheapest_has_fewest_parameters_then_steps_and_is_greedy(
    trial: Make, group: list[tuple[Any, ...]], taken: str, reason: Reason
) -> None:
    found, why = recommend([Standing(costing(trial, *one), 0.5, 0.001, 0.1) for one in group])
    assert (found.name, why) == (taken, reason)


def test_cheaper_trials_are_taken_only_when_they_are_shown_to_be_within_the_margin(trial: Make) -> None:
    dear, cheap = costing(trial, "a", 320), costing(trial, "b", 80)  # of a CER of 10 %
    for excess, margin, taken in (
        (0.0031, 0.03, dear),
        (0.0029, 0.03, cheap),
        (0.0029, 0.0, dear),
        (0.0031, 0.04, cheap),
    ):
        assert recommend([Standing(dear, 0.9, 0.0, 0.1), Standing(cheap, 0.5, excess, 0.1)], margin)[0] is taken


def test_few_data_do_not_make_a_worse_trial_the_recommended_one(tally: Callable[..., Tally]) -> None:
    """Of a trial that is truly a tenth worse and cheaper, however little the data can tell."""
    rng, speech, shown = np.random.default_rng(3), Speech(recordings=30), 0
    for _ in range(30):
        edits, chars = speech.edits(rng, [0.1, 0.11])
        made = tally(edits, chars, speech.names)
        worse = standings(made, randomise(made.whole_edits))[1]
        shown += worse.excess <= 0.03 * made.rates.min()
    assert shown <= 1


def test_excesses_hold_for_all_trials_at_once(tally: Callable[..., Tally]) -> None:
    rng, speech, held = np.random.default_rng(4), Speech(recordings=60), 0
    rates = np.array([0.1, 0.1, 0.102, 0.106, 0.115, 0.13])
    true = rates - rates.min()
    for _ in range(100):
        edits, chars = speech.edits(rng, rates.tolist())
        made = tally(edits, chars, speech.names)
        held += all(
            one.excess >= truly for one, truly in zip(standings(made, randomise(made.whole_edits)), true, strict=True)
        )
    assert held >= 93


def test_trials_that_differ_alike_in_every_recording_have_an_excess(tally: Callable[..., Tally]) -> None:
    """Five recordings have an infinite critical value, of which no error makes nothing."""
    made = tally([[1, 2, 1, 0, 1], [2, 3, 2, 1, 2], [3, 4, 3, 2, 3]], [9] * 5, range(5))
    excess = [one.excess for one in standings(made, randomise(made.whole_edits))]
    assert excess == pytest.approx([0, 5 / 45, 10 / 45])
