"""Which trials are as good as the best, and which of them is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from multirun_analysis.statistics.recommendation import best_group, recommend
from multirun_analysis.statistics.results import Pair, Reason
from multirun_analysis.sweep import Trial

Make = Callable[..., Trial]


def pair(first: Trial, second: Trial, p: float | None) -> Pair:
    return Pair(first, second, -0.01, None, p, p, p, p)


def test_the_group_are_those_that_no_pair_tells_apart_from_the_best(trial: Make) -> None:
    a, b, c, d = (trial(name) for name in "abcd")
    pairs = [pair(a, b, 0.2), pair(a, c, 0.049), pair(a, d, 0.05), pair(b, c, 1.0), pair(b, d, 0.01), pair(c, d, 1.0)]
    assert best_group([a, b, c, d], pairs) == [a, b, d]


def costing(trial: Make, name: str, parameters: int | None, steps: int = 100, temperature: float = 0.0) -> Trial:
    record: dict[str, Any] = {"trainable_parameters": parameters, "steps": steps}
    return trial(name, record=record, **{"decoding.text_temperature": temperature})


@pytest.mark.parametrize(
    ("group", "taken", "reason"),
    [
        ([("a", 320)], "a", Reason.ALONE),
        ([("a", 320), ("b", 160), ("c", 80)], "c", Reason.CHEAPEST),
        ([("a", 80), ("b", 160)], "a", Reason.BEST_IS_CHEAPEST),
        ([("a", 80), ("b", 80)], "a", Reason.BEST_IS_CHEAPEST),
        ([("a", 80, 200), ("b", 160, 50), ("c", 80, 100)], "c", Reason.CHEAPEST),
        ([("a", 80, 100, 0.1), ("b", 80, 100, 0.0)], "b", Reason.CHEAPEST),
        ([("a", 80, 100, 0.3), ("b", 80, 100, 0.1)], "a", Reason.BEST_IS_CHEAPEST),
        ([("a", 80, 100, 0.3), ("b", 80, 200, 0.0)], "a", Reason.BEST_IS_CHEAPEST),
        ([("a", 80), ("b", None)], "a", Reason.BEST_IS_CHEAPEST),
    ],
)
def test_the_cheapest_has_fewest_parameters_then_steps_and_is_greedy(
    trial: Make, group: list[tuple[Any, ...]], taken: str, reason: Reason
) -> None:
    found, why = recommend([costing(trial, *one) for one in group])
    assert (found.name, why) == (taken, reason)
