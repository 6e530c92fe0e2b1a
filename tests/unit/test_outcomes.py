"""Outcomes of a launch, as its jobs see them."""

from __future__ import annotations

from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.outcomes import Failure, Outcomes, UnitFailed
from kimi_audio_ft.training.ending import TrainingFailed


def test_the_first_trial_of_a_fitted_adapter_takes_it() -> None:
    outcomes = Outcomes(fitted={"a"})
    assert not outcomes.take_fitted("b")
    assert outcomes.take_fitted("a") and not outcomes.take_fitted("a")


def test_a_failure_is_raised_as_by_the_trial_itself() -> None:
    kinds = {}
    for error in (TrainingFailed("nan"), ConfigError("lora.r", 0, "too small"), ZeroDivisionError("a bug")):
        outcomes = Outcomes({"a": Failure.of(error)})
        outcomes.raise_if_failed("b")
        try:
            outcomes.raise_if_failed("a")
        except Exception as raised:
            kinds[type(error)] = (type(raised), str(raised).splitlines())
    assert kinds[TrainingFailed] == (TrainingFailed, ["nan"])
    assert kinds[ConfigError] == (UserError, ["lora.r=0: too small"])
    unit_failed, lines = kinds[ZeroDivisionError]
    assert unit_failed is UnitFailed and lines[0] == "a bug" and lines[-1] == "ZeroDivisionError: a bug"
