"""Values that took long to compute, on disk by all that they depend on.

A value is ``<root>/<kind>/<digest of its facts>.*``: arrays for manifests, JSON for the other kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import write_json, written_aside
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.make import CACHES, lock
from kimi_audio_ft.store.signature import digest_of

Arrays = dict[str, np.ndarray]
_Value = TypeVar("_Value")


def remember(kind: str, facts: Any, make: Callable[[], _Value]) -> _Value:
    """The value that ``make`` computes from ``facts`` (JSON), computed now unless the store has it.

    Processes that ask for the same value wait for the first of them (the ranks of a training start together). A store
    that cannot be written, or a damaged file, only costs time.
    """
    value = recall(kind, facts)
    if value is not None:
        return value
    with ExitStack() as held:
        with suppress(UserError):  # a read-only store
            held.enter_context(lock(kind, digest_of(facts)))
        value = recall(kind, facts)
        if value is None:
            value = make()
            keep(kind, facts, value)
    return value


def recall(kind: str, facts: Any) -> Any:
    """The cached value, or None."""
    path = _path(kind, facts)
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, BadZipFile):  # absent, or damaged
        return None


def keep(kind: str, facts: Any, value: Any) -> None:
    path = _path(kind, facts)
    with suppress(OSError, UserError):  # a read-only store, or a full disk
        if path.suffix == ".json":
            write_json(path, value)
        else:
            with written_aside(path) as draft, draft.open("wb") as file:
                np.savez(file, **value)


def _path(kind: str, facts: Any) -> Path:
    assert kind in CACHES, kind
    return store_root() / kind / f"{digest_of(facts)}{'.npz' if kind == 'manifests' else '.json'}"
