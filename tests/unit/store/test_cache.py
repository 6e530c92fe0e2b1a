"""Files are looked at once within a moment, and again after it."""

from __future__ import annotations

from kimi_audio_ft.store.cache import one_moment, seen_once


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
