"""Cutting at pauses and into windows: no piece is too long, none cuts speech where there is a pause to cut at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from kimi_audio_ft.transcribe.cutting import at_pauses, windows

FRAME = 0.032


def probabilities(*spans: tuple[float, bool]) -> np.ndarray:
    """Of stretches with and without speech, each with its seconds."""
    return np.concatenate([np.full(round(seconds / FRAME), 0.95 if speech else 0.05) for seconds, speech in spans])


def cut(*spans: tuple[float, bool], longest: float = 30.0) -> list[tuple[float, float]]:
    found = probabilities(*spans)
    return at_pauses(found, FRAME, len(found) * FRAME, longest)


def test_pauses_end_pieces_and_silence_is_left_out() -> None:
    pieces = cut((5, False), (4, True), (0.5, False), (3, True), (6, False), (2, True), (4, False))
    assert pieces == [
        (pytest.approx(5 - 0.4, abs=FRAME), pytest.approx(12.5 + 0.8, abs=FRAME)),
        (pytest.approx(18.5 - 0.4, abs=FRAME), pytest.approx(20.5 + 0.8, abs=FRAME)),
    ]


def test_margins_meet_in_the_middle_of_a_pause_and_end_with_the_recording() -> None:
    first, second = cut((0.1, False), (3, True), (1.1, False), (3, True), (0.2, False))
    assert first[0] == 0 and second[1] == pytest.approx(7.4, abs=2 * FRAME)
    assert first[1] == pytest.approx(3.1 + 0.55, abs=FRAME) and first[1] <= second[0]


@pytest.mark.parametrize("longest", [5.0, 12.0, 30.0])
def test_what_is_too_long_is_cut_at_its_longest_pauses(longest: float) -> None:
    rng = np.random.default_rng(7)
    spans: list[tuple[float, bool]] = []
    for _ in range(60):
        spans += [(float(rng.uniform(0.5, 3)), True), (float(rng.uniform(0.15, 0.9)), False)]
    pieces = cut(*spans, longest=longest)
    assert len(pieces) > 3 and all(0 < end - start <= longest for start, end in pieces)
    found = probabilities(*spans)
    for (_, end), (start, _) in pairwise(pieces):
        assert end <= start + 1e-9
        assert found[int(end / FRAME)] < 0.5 and found[int(start / FRAME)] < 0.5, "the cut lies in a pause"
    assert covered(found, pieces), "no speech is lost"


def covered(found: np.ndarray, pieces: Sequence[tuple[float, float]]) -> bool:
    times = (np.flatnonzero(found > 0.5) + 0.5) * FRAME
    return all(any(start <= time <= end for start, end in pieces) for time in times.tolist())


def test_speech_without_a_pause_is_cut_where_it_is_least_likely() -> None:
    found = np.full(round(50 / FRAME), 0.95)
    dip = round(22 / FRAME)
    found[dip - 3 : dip + 4] = 0.6
    first, second = at_pauses(found, FRAME, len(found) * FRAME, 30.0)
    assert first[1] == second[0] == pytest.approx(22, abs=0.1)
    pieces = at_pauses(np.full(10_000, 0.95), FRAME, 320.0, 30.0)
    assert pieces[0][0] == 0 and pieces[-1][1] == 320 and all(one[1] == two[0] for one, two in pairwise(pieces))
    assert max(end - start for start, end in pieces) <= 30


def test_no_speech_and_clicks_are_no_piece() -> None:
    assert cut((40, False)) == []
    assert cut((20, False), (0.06, True), (20, False)) == []


def test_equal_pauses_are_divided_in_the_middle() -> None:
    spans = [(0.3, True), (0.3, False)] * 500
    pieces = cut(*spans)
    assert covered(probabilities(*spans), pieces) and max(end - start for start, end in pieces) <= 30


@pytest.mark.parametrize("seconds", [30.0001, 31.5, 59.9991, 60.0, 61.3333, 3600.7])
def test_windows_are_equal_and_as_few_as_can_be(seconds: float) -> None:
    pieces = windows(seconds, 30.0)
    assert pieces[0][0] == 0.0 and pieces[-1][1] == seconds and len(pieces) == -(-seconds // 30)
    assert all(one[1] == two[0] for one, two in pairwise(pieces))
    lengths = [end - start for start, end in pieces]
    assert max(lengths) <= 30 + 1e-9 and max(lengths) - min(lengths) < 0.01
