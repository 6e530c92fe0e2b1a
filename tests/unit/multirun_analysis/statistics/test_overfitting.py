from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from multirun_analysis.compare import Adapter
from multirun_analysis.statistics.overfitting import overfitting_of
from multirun_analysis.statistics.results import Overfitting
from multirun_analysis.sweep import Trial

Judge = Callable[..., Overfitting]


@pytest.fixture
def judge(trial: Callable[..., Trial]) -> Judge:
    """The verdict over losses after each epoch of ten steps."""

    def make(validation: list[Any], training: list[Any] | None = None) -> Overfitting:
        source = trial()
        rows = []
        for epoch, losses in enumerate(zip(training or validation, validation, strict=True), start=1):
            for split, loss in zip(("train", "val"), losses, strict=True):
                rows.append({"step": 10 * epoch, "epoch": float(epoch), "split": split, "loss": loss})
        vars(source)["curves"] = rows
        return overfitting_of(Adapter("a", source, [source]))

    return make


def test_a_validation_loss_that_rises_again_has_turned(judge: Judge) -> None:
    verdict = judge([2.0, 1.2, 1.0, 1.1, 1.3], [2.0, 1.0, 0.6, 0.4, 0.2])
    assert (verdict.kind, verdict.best_step, verdict.best_epoch) == ("turned", 30, 3.0)
    assert (verdict.best_loss, verdict.final_loss, verdict.gap) == (1.0, 1.3, pytest.approx(1.1))


def test_a_falling_loss_is_none(judge: Judge) -> None:
    assert judge([2.0, 1.2, 1.0, 0.95]).kind == "none"


def test_the_noise_of_a_plateau_is_no_turn(judge: Judge) -> None:
    verdict = judge([2.0, 1.0, 1.01, 1.005, 1.015])
    assert (verdict.kind, verdict.best_step) == ("none", 20)


def test_a_wide_gap_without_a_turn(judge: Judge) -> None:
    assert judge([2.0, 1.2, 1.0, 0.99], [2.0, 0.9, 0.5, 0.3]).kind == "gap"
    assert judge([2.0, 1.2, 1.0, 0.99], [2.0, 1.1, 0.9, 0.8]).kind == "none"


def test_small_losses_are_judged_by_their_difference_too(judge: Judge) -> None:
    verdict = judge([0.5, 0.12, 0.09, 0.095], [0.4, 0.1, 0.06, 0.03])
    assert verdict.kind == "none" and verdict.gap == pytest.approx(0.065)
    assert judge([0.5, 0.12, 0.09, 0.12]).kind == "turned"


def test_two_validations_are_too_few_to_know(judge: Judge) -> None:
    verdict = judge([1.0, 1.5])
    assert (verdict.kind, verdict.best_step, verdict.gap) == ("unknown", 10, 0.0)


def test_without_validation_everything_is_unknown(judge: Judge) -> None:
    verdict = judge([None, None], [1.0, 0.5])
    assert verdict.kind == "unknown"
    assert (verdict.best_step, verdict.best_epoch, verdict.final_loss, verdict.gap) == (None,) * 4


def test_losses_that_are_no_numbers_do_not_count(judge: Judge) -> None:
    verdict = judge([2.0, 1.0, 0.9, float("nan")])
    assert (verdict.kind, verdict.final_loss) == ("none", 0.9)


def test_without_training_losses_a_turn_is_still_seen(judge: Judge) -> None:
    verdict = judge([2.0, 1.0, 1.5], [None, None, None])
    assert (verdict.kind, verdict.gap) == ("turned", None)
