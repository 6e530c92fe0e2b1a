"""The fit: planted laws are found again, its bounds hold, and no other law fits better."""

from __future__ import annotations

import numpy as np
import pytest

from multirun_analysis.learning import EXPONENTS, PowerLaw, fit_power_law, fit_power_laws

SIZES = np.array([1000.0, 2000.0, 5000.0, 10000.0])


def errors_of(floor: float, scale: float, exponent: float) -> np.ndarray:
    law = PowerLaw(floor, scale, exponent, SIZES[-1])
    return np.array([law.at(size) for size in SIZES])


@pytest.mark.parametrize(
    ("floor", "scale", "exponent"), [(0.03, 0.05, 0.4), (0.0, 0.1, 0.3), (0.08, 0.01, 1.2), (0.02, 0.2, 0.15)]
)
def test_a_planted_law_is_found(floor: float, scale: float, exponent: float) -> None:
    law = fit_power_law(SIZES, errors_of(floor, scale, exponent))
    assert law.exponent == pytest.approx(exponent, rel=5e-3)
    assert law.floor == pytest.approx(floor, abs=2e-3) and law.scale == pytest.approx(scale, abs=2e-3)
    assert law.at(100_000) == pytest.approx(floor + scale * 10**-exponent, abs=5e-4)


def test_errors_that_do_not_fall_are_a_constant() -> None:
    law = fit_power_law(SIZES, np.array([0.1, 0.12, 0.11, 0.13]))
    assert law.scale == 0 and 0.1 < law.floor < 0.13 and law.at(1e6) == law.floor


def test_no_floor_is_below_nothing() -> None:
    falling = np.array([0.4, 0.2, 0.05, 0.004])  # faster than any law that ends above 0
    law = fit_power_law(SIZES, falling)
    assert law.floor == 0 and law.scale > 0 and EXPONENTS[0] <= law.exponent <= EXPONENTS[1]


def test_no_other_law_fits_better() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        errors = errors_of(0.03, 0.05, 0.5) + rng.normal(0, 0.004, len(SIZES))
        weights = 1 / errors

        def loss(law: PowerLaw, errors: np.ndarray = errors, weights: np.ndarray = weights) -> float:
            return float(sum(weights * (errors - np.array([law.at(size) for size in SIZES])) ** 2))

        best = loss(fit_power_law(SIZES, errors))
        others = zip(rng.uniform(0, 0.1, 300), rng.uniform(0, 0.1, 300), rng.uniform(*EXPONENTS, 300), strict=True)
        assert all(best <= loss(PowerLaw(*other, SIZES[-1])) + 1e-9 for other in others)


def test_many_at_once_are_those_of_one_by_one() -> None:
    measured = errors_of(0.03, 0.05, 0.4)
    rows = measured + np.random.default_rng(2).normal(0, 0.003, (10, len(SIZES)))
    laws = fit_power_laws(SIZES, measured, rows)
    for place, row in enumerate(rows):
        [alone] = fit_power_laws(SIZES, measured, row[None]).at(50_000)
        assert laws.at(50_000)[place] == pytest.approx(alone)
