"""Values are computed once: on disk for all processes, in memory while a sweep is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.store.cache import keep, one_moment, recall, remember, seen_once

VALUES: dict[str, Any] = {"layouts": {"linears": ["q_proj"]}, "manifests": {"lengths": np.arange(3)}}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_computed_once_and_again_when_its_file_is_damaged(private_store: Path, kind: str) -> None:
    calls: list[int] = []

    def make() -> Any:
        calls.append(len(calls))
        return VALUES[kind]

    assert recall(kind, ["v", 1]) is None
    for _ in range(2):
        found = remember(kind, ["v", 1], make)
        np.testing.assert_equal(found, VALUES[kind])
    remember(kind, ["v", 2], make)
    assert calls == [0, 1]
    for file in (private_store / kind).glob("[!.]*"):
        file.write_bytes(file.read_bytes()[:-3])
    np.testing.assert_equal(remember(kind, ["v", 1], make), VALUES[kind])
    assert calls == [0, 1, 2] and recall(kind, ["v", 2]) is None


def test_a_store_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "file"))
    keep("rungs", "a", 1)
    assert remember("rungs", "a", lambda: 2) == 2


def test_seen_once() -> None:
    looks: list[str] = []

    def look(what: str) -> int:
        return seen_once(what, lambda: looks.append(what) or len(looks))

    assert [look("a"), look("a")] == [1, 2]  # outside of a moment things may change
    with one_moment():
        assert [look("a"), look("b"), look("a"), look("b")] == [3, 4, 3, 4]
        with one_moment():
            assert look("a") == 5
        assert look("a") == 3
    assert look("a") == 6


def test_what_failed_is_looked_at_again() -> None:
    def fail() -> int:
        raise OSError

    with one_moment():
        for _ in range(2):
            try:
                seen_once("a", fail)
            except OSError:
                continue
            raise AssertionError("it was not looked at")
        assert seen_once("a", lambda: 1) == 1
