"""Ends of a training before its last step: a loss that is not finite, and leaving Lightning's loops."""

from __future__ import annotations

import math

from kimi_audio_ft.errors import UserError


class TrainingFailed(UserError):
    """The loss was not finite, so there is no adapter."""


class Leave(Exception):
    """Ends Lightning's loops from inside; never leaves ``training.fit``."""


def require_finite(what: str, loss: float, rate: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailed(
            f"optim.lr={rate:g}: the {what} loss is {loss} at step {step}; it must be finite. "
            "Lower optim.lr, or set optim.max_grad_norm"
        )
