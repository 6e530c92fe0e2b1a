"""Looking at files once for many trials: within ``one_moment`` what lies on the disk is taken to stay as it is.

Every trial looks at its manifests, recordings and checkpoint anew, for they may have changed since the last one. While
a sweep is planned, all trials are looked at in the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_Value = TypeVar("_Value")
_SEEN: ContextVar[dict[Hashable, Any] | None] = ContextVar("_SEEN", default=None)


@contextmanager
def one_moment() -> Iterator[None]:
    """Until it is left, ``seen_once`` calls each maker once."""
    before = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(before)


def seen_once(key: Hashable, make: Callable[[], _Value]) -> _Value:
    """What ``make`` returns, or what it has returned for this key in this moment; outside of one it is always called.

    key: all that the value depends on, apart from the contents of files.
    """
    seen = _SEEN.get()
    if seen is None:
        return make()
    if key not in seen:
        seen[key] = make()
    return seen[key]
