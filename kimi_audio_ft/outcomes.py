"""Outcomes of a launch's units, for the trials that then run: they neither train again nor claim a reuse."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.training.ending import TrainingFailed

BASE = "base"
"""Key of the unit that decodes with no adapter."""


@dataclass(frozen=True)
class Failure:
    """Why a unit could not be made. user: a person can fix it; then there is no traceback to show."""

    error_type: str
    message: str
    user: bool
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        user = isinstance(error, UserError)
        trace = "" if user else "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), user, trace)

    def error(self) -> Exception:
        """The error as a trial by itself would have raised it."""
        if self.error_type == TrainingFailed.__name__:
            return TrainingFailed(self.message)
        if self.user:
            return UserError(self.message)
        return UnitFailed("\n".join(filter(None, [self.message, self.traceback.strip()])))


class UnitFailed(RuntimeError):
    """An adapter could not be trained or decoded, for no reason that a person can fix."""


@dataclass
class Outcomes:
    """By unit key. failed: why it could not be made. fitted: made by this sweep, and not yet taken by a trial."""

    failed: dict[str, Failure] = field(default_factory=dict)
    fitted: set[str] = field(default_factory=set)

    def raise_if_failed(self, key: str) -> None:
        if key in self.failed:
            raise self.failed[key].error()

    def take_fitted(self, key: str) -> bool:
        """Whether this sweep made the adapter and the asking trial is the first that uses it."""
        fitted = key in self.fitted
        self.fitted.discard(key)
        return fitted
