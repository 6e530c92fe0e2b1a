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


def test_linear() -> None:
    values = factors("linear", 12, 2 / 12)
    assert values[2:] == pytest.approx([1 - step / 10 for step in range(10)])
    assert rate_factor("linear", 12, 2 / 12)(12) == 0.0


def test_cosine() -> None:
    values = factors("cosine", 12, 2 / 12)
    assert values[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert values[7] == pytest.approx(0.5)
    assert rate_factor("cosine", 12, 2 / 12)(12) == pytest.approx(0.0)


def test_constant() -> None:
    assert factors("constant", 5, 0.0) == [1.0] * 5


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert factors("linear", 4, 0.0) == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_single_step(schedule: str) -> None:
    assert factors(schedule, 1, 0.0) == [1.0]
    assert factors(schedule, 1, 0.03) == [0.5]


def test_after_the_end_the_rate_stays_at_zero() -> None:
    assert rate_factor("linear", 4, 0.0)(9) == 0.0
    assert rate_factor("cosine", 4, 0.0)(9) == pytest.approx(0.0)
