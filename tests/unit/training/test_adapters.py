"""Shapes of the learning-rate schedules."""

from __future__ import annotations

import math

import pytest

from kimi_audio_ft.training.adapters import rate_factor


def factors(schedule: str, steps: int, warmup: float) -> list[float]:
    factor = rate_factor(schedule, steps, warmup)
    return [factor(step) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_rises_evenly_to_the_peak(schedule: str) -> None:
    values = factors(schedule, 100, 0.1)
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == 1.0 and max(values) == 1.0
    assert all(value > 0 for value in values), "no step is wasted on a rate of zero"


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("linear", [1 - step / 10 for step in range(10)]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]),
        ("constant", [1.0] * 10),
    ],
)
def test_from_the_peak_to_the_end(schedule: str, after: list[float]) -> None:
    assert factors(schedule, 12, 2 / 12)[2:] == pytest.approx(after)
    assert factors(schedule, 10, 0.0) == pytest.approx(after), "without warm-up the first step has the peak"
    for late in (12, 21):
        assert rate_factor(schedule, 12, 2 / 12)(late) == pytest.approx(float(schedule == "constant"))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_single_step(schedule: str) -> None:
    assert factors(schedule, 1, 0.0) == [1.0]
    assert factors(schedule, 1, 0.03) == [0.5]
