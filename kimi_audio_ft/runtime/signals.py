"""Requests to stop, by signals."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# The requests that answer this process's signals now.
_LISTENING: list[StopRequest] = []


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop and has saved a checkpoint at ``step``, from which the same command resumes.

    A KeyboardInterrupt, so that code which handles Ctrl-C handles this too.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class StopRequest:
    """Whether this process was asked to stop: as a context manager it answers signals, and calling it tells.

    SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGHUP (a closed terminal; not where nohup has it ignored) ask to stop; a
    second Ctrl-C raises KeyboardInterrupt at once. Python delivers signals to the main thread only, so in any other
    nothing is heard.

    Args:
        on_stop: called at every such signal.
        also: more signals that ask to stop.
        ignore_ctrl_c: when a parent process answers Ctrl-C, which reaches every process of a terminal's group.
        is_gone: whether a process without which this one is to stop has ended; asked whenever this is.
    """

    def __init__(
        self,
        on_stop: Callable[[], None] | None = None,
        *,
        also: Sequence[signal.Signals] = (),
        ignore_ctrl_c: bool = False,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.on_stop, self.is_gone = on_stop, is_gone
        self._handlers: dict[signal.Signals, Any] = dict.fromkeys((*_SIGNALS, *also), self._receive)
        if ignore_ctrl_c:
            self._handlers[signal.SIGINT] = signal.SIG_IGN
        self._before: dict[signal.Signals, Any] = {}
        self._received: set[int] = set()

    def __call__(self) -> bool:
        return bool(self._received) or self.is_gone()

    def listen(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                self._handlers.pop(signal.SIGHUP, None)
            self._before = {number: signal.signal(number, handler) for number, handler in self._handlers.items()}
        _LISTENING.append(self)
        return self

    def __enter__(self) -> Self:
        return self.listen()

    def __exit__(self, *error: object) -> None:
        _LISTENING.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in self._received:
            raise KeyboardInterrupt
        self._received.add(number)
        if number == signal.SIGHUP:
            leave_terminal()
        if self.on_stop is not None:
            self.on_stop()


def leave_if_asked() -> None:
    """Raise Interrupted(0) if this process was asked to stop, for work deep below whoever listens."""
    if any(request() for request in _LISTENING):
        raise Interrupted(0)


def leave_terminal() -> None:
    """Discard what will be printed, unless it goes into a file: the terminal, or the reader of the pipe, is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


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
