"""Ends of a training before its last step: a loss that is not finite, and leaving Lightning's loops."""

from __future__ import annotations

import math

from kimi_audio_ft.errors import UserError


class TrainingFailed(UserError):
    """The loss was not finite, so there is no adapter."""


class Leave(Exception):
    """Ends Lightning's loops from inside; never leaves ``training.fit``."""


# Of a loss on a GPU, where kernels can be at fault too (``runtime.devices.avoid_wrong_kernels``).
_OR_ITS_KERNELS = (
    "; or, should lower rates not help, set model.attention=eager: cuDNN's attention (turned off here) has had "
    "gradients of NaN"
)


def require_finite(what: str, loss: float, rate: float, step: int, on_gpu: bool = False) -> None:
    """Raise a TrainingFailed unless a loss is finite. on_gpu: it was computed there."""
    if not math.isfinite(loss):
        raise TrainingFailed(
            f"optim.lr={rate:g}: the {what} loss is {loss} at step {step}; it must be finite. "
            f"Lower optim.lr, or set optim.max_grad_norm{_OR_ITS_KERNELS if on_gpu else ''}"
        )
