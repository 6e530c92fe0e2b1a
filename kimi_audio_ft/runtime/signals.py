"""How a training ends before its end: on request, at a rung, or because a loss is not a number."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kimi_audio_ft.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class TrainingFailed(UserError):
    """The loss was not finite, so there is no adapter."""


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop and has left a checkpoint at its last step; started again it goes on from there.

    A KeyboardInterrupt, so that whoever ends well on Ctrl-C ends well on this.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Leave(Exception):
    """Ends Lightning's loops from inside; never leaves ``training.fit``."""


def require_finite(what: str, loss: float, rate: float, step: int) -> None:
    """Raise TrainingFailed unless the loss is a finite number."""
    if not math.isfinite(loss):
        raise TrainingFailed(
            f"optim.lr={rate:g}: the {what} loss is {loss} at step {step}; it must be finite. "
            "Lower optim.lr, or set optim.max_grad_norm"
        )


@contextmanager
def stop_on_signals(also: Callable[[int], None] | None = None) -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGINT, SIGTERM or SIGUSR1 has come in; a second Ctrl-C interrupts at once.

    ``also`` is given every such signal. Outside the main thread, where Python delivers no signals, it never does.
    """
    heard: list[int] = []

    def hear(number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in heard:
            raise KeyboardInterrupt
        heard.append(number)
        if also is not None:
            also(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_signals() -> Iterator[None]:
    """Undo what Lightning does with Ctrl-C: it ignores any further one, and turns the interruption into an exit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
