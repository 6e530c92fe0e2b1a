"""Slices of a tally: what is in each, where a planted help and hurt are found, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft.scoring.intervals import error_rate_interval
from multirun_analysis.messages import ENGLISH
from multirun_analysis.statistics.slices import MOST_VALUES, Slices, slices_of
from multirun_analysis.statistics.tally import Tally
from multirun_analysis.words import slice_title, slicing_title

Make = Callable[..., Tally]
UTTERANCES, RECORDINGS = 400, 100
PLACES = ("car", "room", "street", "hall")
# Error rates of the adapter and the base where they were recorded.
RATES = {"car": (0.1, 0.3), "room": (0.3, 0.1), "street": (0.2, 0.2), "hall": (0.2, 0.2)}


@pytest.fixture
def planted(tally: Make) -> Callable[..., Slices]:
    rng = np.random.default_rng(3)
    places = [PLACES[number % 4] for number in range(UTTERANCES)]
    chars = rng.integers(10, 30, UTTERANCES)
    edits = [[rng.binomial(n, RATES[place][row]) for n, place in zip(chars, places, strict=True)] for row in (0, 1)]
    recordings = [f"r{number // 4}" for number in range(UTTERANCES)]
    made = tally(edits, chars, recordings)

    def make(columns: Callable[[int], dict[str, Any]], rows: int = 2) -> Slices:
        ids = [f"u{number}" for number in range(UTTERANCES)]
        lines = [{"id": name, "seconds": 1.0 + number % 40, **columns(number)} for number, name in enumerate(ids)]
        return slices_of(made.only(made.trials[:rows]), ids, lines[::-1])

    return make


def test_help_and_hurt_are_found_where_they_are(planted: Callable[..., Slices]) -> None:
    found = planted(lambda number: {"columns": {"place": PLACES[number % 4]}})
    duration, place = found.slicings
    by_value = {one.value: one for one in place.slices}
    assert {value: one.verdict for value, one in by_value.items()} == {
        **{"car": "help", "room": "hurt"},
        **{"street": None, "hall": None},
    }
    for one in place.slices:
        assert (one.utterances, one.recordings) == (100, 100) and one.interval and one.base_interval
        assert one.interval.low < one.rate < one.interval.high
        assert one.difference_interval is not None and one.base_rate is not None
        assert one.difference == pytest.approx(one.rate - one.base_rate)
        assert one.difference_interval.low < RATES[one.value][0] - RATES[one.value][1] < one.difference_interval.high
    bounds = [one.bounds for one in duration.slices if one.bounds]
    assert len(bounds) == 4 and bounds[0][0] == 1 and bounds[-1][1] == 40
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert all(90 <= one.utterances <= 110 for one in duration.slices)
    assert sum(one.utterances for one in duration.slices) == UTTERANCES
    assert found.left_out == []


def test_without_a_base_there_is_a_rate_with_its_interval(planted: Callable[..., Slices]) -> None:
    one = planted(lambda number: {}, rows=1).slicings[0].slices[0]
    assert one.interval is not None and one.base_rate is None and one.difference is None and one.verdict is None


def test_numbers_are_classes_and_many_values_are_counted(planted: Callable[..., Slices]) -> None:
    columns = {
        "snr": lambda n: f"{n % 100 / 4}",
        "speaker": lambda n: f"s{min(n % 25, 20)}",
        "same": lambda n: "x",
        "id": lambda n: f"id{n}",
    }
    found = planted(lambda n: {"columns": {name: value(n) for name, value in columns.items()}})
    by_name = {slicing.column: slicing for slicing in found.slicings}
    assert list(by_name) == ["seconds", "snr", "speaker"] and found.left_out == ["same", "id"]
    assert len(by_name["snr"].slices) == 4 and by_name["snr"].slices[0].bounds == (0.0, 6.25)
    speaker = by_name["speaker"]
    assert len(speaker.slices) == MOST_VALUES and (speaker.more, speaker.more_utterances) == (9, 144)
    assert speaker.slices[0].value == "s20"  # of five in twenty-five utterances


def test_signal_to_noise_ratios_are_cut_at_ten_and_twenty_decibels(planted: Callable[..., Slices]) -> None:
    _, noise = planted(lambda n: {"columns": {"snr_db": f"{n % 30:.1f}"}}).slicings
    assert [one.bounds for one in noise.slices] == [(0, 10), (10, 20), (20, 29)]
    assert slicing_title(noise, ENGLISH) == "signal-to-noise ratio in dB (estimate)"
    assert [slice_title(one, noise, ENGLISH) for one in noise.slices] == ["0 to 10", "10 to 20", "20 to 29"]
    assert [one.utterances for one in noise.slices] == [sum(n % 30 in some for n in range(UTTERANCES)) for some in (
        range(11), range(11, 21), range(21, 30),
    )]  # fmt: skip
    found = planted(lambda n: {"columns": {"snr_db": f"{20 + n % 7}"}})
    assert [one.bounds for one in found.slicings[1].slices] == [(20, 20), (20, 26)]


def test_few_recordings_have_no_interval_and_missing_cells_are_a_value(tally: Make) -> None:
    made = tally([[1, 2, 3, 0], [2, 2, 2, 2]], [10] * 4, ["a", "a", "b", "c"])
    rows = [{"id": name, "columns": {"city": city} if city else {}} for name, city in zip("abcd", "xxx ", strict=True)]
    [city] = slices_of(made, list("abcd"), [*rows[:3], {"id": "d"}]).slicings
    assert [(one.value, one.utterances, one.recordings, one.interval) for one in city.slices] == [
        ("x", 3, 2, None),
        ("", 1, 1, None),
    ]
    assert city.slices[0].rate == pytest.approx(0.2) and city.slices[0].verdict is None


def test_many_slices_of_equal_trials_are_rarely_called_different(tally: Make) -> None:
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        chars = np.full(240, 20)
        edits = rng.binomial(chars, 0.2, (2, 240))
        made = tally(edits, chars, [f"r{number // 2}" for number in range(240)])
        rows = [{"id": str(n), "columns": {"speaker": f"s{n % 12}"}} for n in range(240)]
        found = slices_of(made, [str(n) for n in range(240)], rows).slicings[0].slices
        wrong += any(one.verdict for one in found)
    assert wrong <= 5  # 5 % are two


def test_the_interval_is_the_jackknifes_below_forty_recordings(tally: Make) -> None:
    rng = np.random.default_rng(0)
    edits, names = rng.integers(0, 5, (1, 60)), [f"r{n // 2}" for n in range(60)]
    rows = [{"id": str(n), "columns": {"half": str(n % 2)}} for n in range(60)]
    one = slices_of(tally(edits, [20] * 60, names), [str(n) for n in range(60)], rows).slicings[0].slices[0]
    assert one.interval is not None
    expected = error_rate_interval(edits[0, ::2], [20] * 30, names[::2])
    assert (one.interval.low, one.interval.high) == pytest.approx(expected)


@pytest.mark.parametrize("cell", ["", "n/a", "nan"])
def test_ratios_that_were_not_measured_are_a_slice_beside_the_classes(
    planted: Callable[..., Slices], cell: str
) -> None:
    _, noise = planted(lambda n: {"columns": {"snr_db": f"{n % 30:.1f}" if n % 10 else cell}}).slicings
    assert [one.bounds for one in noise.slices] == [(1, 10), (10, 20), (20, 29), None]
    assert slice_title(noise.slices[-1], noise, ENGLISH) == "not measured"
    assert noise.slices[-1].utterances == 40 and sum(one.utterances for one in noise.slices) == UTTERANCES
    _, alike = planted(lambda n: {"columns": {"snr_db": "30.0"} if n % 2 else {}}).slicings
    assert [one.bounds for one in alike.slices] == [(30, 30), None]


def test_empty_cells_leave_a_column_its_quarters_and_words_do_not(planted: Callable[..., Slices]) -> None:
    _, age = planted(lambda n: {"columns": {"age": f"{n % 25}" if n % 8 else ""}}).slicings
    assert [one.bounds for one in age.slices] == [(0, 6), (6, 12), (12, 18), (18, 24), None]
    assert slice_title(age.slices[-1], age, ENGLISH) == "(empty)" and age.slices[-1].utterances == 50
    _, speaker = planted(lambda n: {"columns": {"speaker": f"{n % 25}" if n % 8 else "unknown"}}).slicings
    assert speaker.slices[0].value == "unknown" and len(speaker.slices) == MOST_VALUES
