"""Arrays that took long to compute, remembered in the store by the name of all that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.make import lock
from kimi_audio_ft.store.signature import digest_of

KIND = "manifests"
Arrays = dict[str, np.ndarray]


def remembered(facts: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``make`` computes from ``facts`` (JSON values), made now unless the store has them.

    Processes that want the same arrays wait for the first of them (the ranks of a training start together).
    """
    name = digest_of(facts)
    place = store_root() / KIND / f"{name}.npz"
    arrays = _read(place)
    if arrays is not None:
        return arrays
    with ExitStack() as held:
        with suppress(UserError):  # a store that can only be read: remembering only saves time
            held.enter_context(lock(KIND, name))
        arrays = _read(place)
        if arrays is None:
            arrays = make()
            _write(place, arrays)
    return arrays


def _read(place: Path) -> Arrays | None:
    try:
        with np.load(place, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, BadZipFile):  # not there, or damaged: it is made again
        return None


def _write(place: Path, arrays: Arrays) -> None:
    draft = place.with_name(f".{place.name}.draft")
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        draft.replace(place)
    except OSError:  # a full disk: remembering only saves time
        with suppress(OSError):
            draft.unlink(missing_ok=True)


# --- Looking at files once for many trials: within ``one_moment`` what lies on the disk is taken to stay as it is.

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
