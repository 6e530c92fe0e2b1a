"""Arrays that took long to compute, remembered in the store by the name of all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.signature import digest_of
from kimi_audio_ft.store import lock

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
