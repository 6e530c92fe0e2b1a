"""Outcomes of a launch, as its jobs see them."""

from __future__ import annotations

from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.outcomes import Failure, Outcomes, UnitFailed, current_outcomes
from kimi_audio_ft.training.ending import TrainingFailed


def test_a_job_sees_the_outcomes_of_its_launch_and_a_trial_by_itself_none() -> None:
    outcomes = Outcomes(fitted={"a"})
    with outcomes.given_to_jobs():
        assert current_outcomes() is outcomes
        with Outcomes().given_to_jobs():
            assert not current_outcomes().take_fitted("a")
        assert current_outcomes().take_fitted("a")
        assert not current_outcomes().take_fitted("a"), "the first trial takes it"
    assert current_outcomes() == Outcomes()


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
