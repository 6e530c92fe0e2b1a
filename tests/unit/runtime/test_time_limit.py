"""The hours of a sweep: when it begins to save, and when it must have ended."""

from __future__ import annotations

import pytest

from kimi_audio_ft.runtime.time_limit import TimeLimit


@pytest.mark.parametrize(("hours", "reserve"), [(0.1, 36.0), (1.0, 120.0), (24.0, 120.0)])
def test_a_tenth_or_two_minutes_are_left_to_save_in(hours: float, reserve: float) -> None:
    now = [50.0]
    limit = TimeLimit.from_now(hours, lambda: now[0])
    assert limit is not None
    told = []
    for seconds in (0.0, 3600 * hours - reserve - 1, 3600 * hours - reserve + 1, 3600 * hours + 1):
        now[0] = 50.0 + seconds
        told.append((limit.is_near(), limit.is_over()))
    assert told == [(False, False), (False, False), (True, False), (True, True)]
    assert TimeLimit.from_now(None) is None
