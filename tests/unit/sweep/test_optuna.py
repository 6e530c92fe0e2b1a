"""Optuna asks for a pack of different trials."""

from __future__ import annotations

import warnings
from statistics import pstdev

import pytest

optuna = pytest.importorskip("optuna", reason="hydra-optuna-sweeper is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def spread(sampler: object) -> float:
    """Standard deviation of log10(lr) over 8 trials asked for together, after 8 whose best is at 1e-3."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler)
    for exponent in (-2.0, -2.3, -2.6, -2.9, -3.0, -3.1, -3.4, -4.0):
        space = {"lr": optuna.distributions.UniformDistribution(-4, -2)}
        trial = optuna.trial.create_trial(params={"lr": exponent}, distributions=space, value=abs(exponent + 3))
        study.add_trial(trial)
    return pstdev(study.ask().suggest_uniform("lr", -4, -2) for _ in range(8))


def test_trials_of_a_pack_are_spread_and_repeatable() -> None:
    from kimi_audio_ft.sweep.optuna import tpe_for_packs

    options = {"n_startup_trials": 8, "n_ei_candidates": 24}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samplers = [tpe_for_packs(seed=seed, **options) for seed in (0, 1, 2, 0)]
    first, *others, again = map(spread, samplers)
    plain = [spread(optuna.samplers.TPESampler(seed=seed, **options)) for seed in (0, 1, 2)]
    assert min(first, *others) > 2 * max(plain)
    assert first == again
