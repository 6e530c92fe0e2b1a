"""What this process's sweep has made, for the trials that it then runs: they neither train again nor claim a reuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.runtime.signals import TrainingFailed

FAILED: dict[str, Failure] = {}
"""Adapters that could not be made, by training signature."""
FITTED: set[str] = set()
"""Adapters made by this sweep that no trial has taken yet."""


class UnitFailed(RuntimeError):
    """An adapter could not be trained or decoded, for no reason that a person can mend."""


def raise_if_failed(key: str) -> None:
    """Raise what ended the making of a unit, as the trial by itself would have raised it."""
    failure = FAILED.get(key)
    if failure is not None:
        _raise(failure)


def _raise(failure: Failure) -> NoReturn:
    if failure.error_type == "TrainingFailed":
        raise TrainingFailed(failure.message)
    if failure.user:
        raise UserError(failure.message)
    raise UnitFailed("\n".join(filter(None, [failure.message, failure.traceback.strip()])))


def take_fitted(key: str) -> bool:
    """Whether this sweep made the adapter and the asking trial is the first that uses it."""
    fitted = key in FITTED
    FITTED.discard(key)
    return fitted


BASE = "base"
"""Key of the unit that decodes with no adapter."""


@dataclass
class Failure:
    """Why a unit could not be made.

    user: a person can mend it; then there is no traceback to show.
    """

    error_type: str
    message: str
    user: bool
    traceback: str = ""
