"""Each sign against figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multirun_analysis.labels.evidence import Evidence, Utterance
from multirun_analysis.labels.signals import (
    consensus,
    disagreement,
    out_of_range,
    percentiles,
    rank_suspects,
    script_of,
)
from multirun_analysis.labels.suspects import reasons
from tests.unit.multirun_analysis.labels.conftest import spoken

EQUAL = dict.fromkeys("012", 1.0)


def heard(reference: str, *votes: str) -> Utterance:
    return Utterance("u", reference, None, "u", 1.0, votes={str(place): vote for place, vote in enumerate(votes)})


@pytest.mark.parametrize(
    ("utterance", "expected"),
    [
        (heard("今天开会", "今天开会", "今天开会"), 0.0),
        (heard("今天开会", "明日放假", "明日放假"), 1.0),  # all agree, and not with the reference
        (heard("今天开会", "一二三四", "五六七八"), 0.5),  # all at a loss: half of the pairs are of one with itself
        (heard("今天开会", "今天开会", "明日放假"), 0.0),  # one confirms the reference
        (heard("今天开会", "今天开花", "今天开花"), 0.25),
        (heard("今天，开会。", "今天开会", "今天开会"), 0.0),  # marks are no words
        (heard("今天开会", "", ""), 1.0),
        (heard("今天", "明天"), math.nan),  # one transcript is no consensus
    ],
)
def test_disagreement_is_consensus_against_the_reference(utterance: Utterance, expected: float) -> None:
    assert disagreement(utterance, EQUAL) == pytest.approx(expected, nan_ok=True)


def test_an_adapter_counts_by_its_own_error_rate() -> None:
    """A base that mishears nearly all hardly confirms, and hardly contradicts."""
    weights = Evidence([], {"0": 0.1, "1": 0.92, "2": 1.4}, []).weights
    assert weights == pytest.approx({"0": 0.81, "1": 0.0064, "2": 0.0004})
    assert disagreement(heard("今天开会", "明日放假", "今天开会"), weights) > 0.95
    assert abs(disagreement(heard("今天开会", "今天开会", "明日放假"), weights)) < 0.01
    assert consensus(heard("x", "今天开花", "今天开会", "今天开会"), weights) == "今天开花"


def test_speeds_are_compared_within_a_script() -> None:
    """English has more characters a second; two of another script are too few to say what is usual."""
    hours = [("今天下午开会讨论", 2.0), ("we talk about all of the new figures", 2.0)] * 25
    utterances = [
        replace(heard(text, text, text), id=str(number), seconds=seconds + number / 100)
        for number, (text, seconds) in enumerate(
            [*hours, ("今天下午开会讨论，" * 3, 2.0), ("Привет", 2.0), ("Да", 9.0)]
        )
    ]
    ranking = rank_suspects(Evidence(utterances, {"0": 0.1, "1": 0.2}, []))
    assert ranking.order[0].id == "50" and set(ranking.usual_speed) == {"Han", "Latin"}
    assert ranking.table["speed"].dropna().gt(0).sum() == 1 and ranking.table["speed"].isna().sum() == 2
    assert "are usual here for Han text" in reasons(ranking, utterances[50])[-1]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("我们投了LPL的五百万股权", "mixed"),
        ("我们的会议", "Han"),
        ("ok thanks", "Latin"),
        ("カードの話", "Kana"),
        ("七", "Han"),
        *(("", ""), ("3.5", ""), ("안녕하세요", "Hangul")),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script


def test_equal_disagreements_are_ties() -> None:
    """They are sums of the same floats in another order."""
    assert disagreement(heard("今天开会", "今天开花", "今天开会", "今天来会"), EQUAL) == disagreement(
        heard("今天开会", "今天来会", "今天开花", "今天开会"), EQUAL
    )


def test_the_best_hypothesis_is_nearest_to_the_others() -> None:
    utterance = heard("x", "今天开花", "今天开会", "今天开会了")
    assert consensus(utterance, EQUAL) == "今天开会"
    assert consensus(heard("x", "甲", "乙"), {"1": 1.0, "0": 1.0}) == "乙"  # a tie: the better adapter stands first


def test_percentiles_count_ties_half_and_leave_the_unknown_out() -> None:
    values = pd.Series([3.0, math.nan, 1.0, 1.0, 9.0])
    expected = [2.5 / 4, math.nan, 1 / 4, 1 / 4, 3.5 / 4]
    np.testing.assert_allclose(percentiles(values), expected)


def test_speeds_within_three_robust_deviations_are_in_range() -> None:
    speeds = pd.Series([4.0 * 1.1**power for power in (-2, -1, 0, 1, 2, 7, -40)])
    excess, bounds = out_of_range(speeds)
    spread = 1.4826 * 2  # the median distance from the median, in steps of 1.1: 0 1 1 2 2 7 40
    assert bounds == pytest.approx((4.0 * 1.1 ** (-3 * spread), 4.0 * 1.1 ** (3 * spread)))
    assert list(excess[:6]) == [0.0] * 6 and excess[6] == pytest.approx(40 / spread - 3)


def test_speeds_that_are_all_alike_say_nothing() -> None:
    excess, bounds = out_of_range(pd.Series([4.0, 4.0, math.nan]))
    assert bounds is None and excess.isna().all()


def test_one_sound_with_two_texts_comes_first_and_says_why(recordings: dict[str, Path]) -> None:
    utterances = [
        spoken("other", recordings["other"], "明日放假"),
        spoken("flac", recordings["flac"], "今天，开会"),
        spoken("wav", recordings["wav"], "今天开火"),
    ]
    ranking = rank_suspects(Evidence(utterances, {"0": 0.1, "1": 0.2}, []))
    # Of the pair, the one that the adapters do not hear is the likelier one; the third is only unheard of.
    assert [utterance.id for utterance in ranking.order] == ["wav", "flac", "other"]
    assert "flac has the same audio and the text '今天，开会'" in reasons(ranking, utterances[2])
    assert "wav has the same audio and the text '今天开火'" in reasons(ranking, utterances[1])


def test_one_sound_with_one_text_is_a_note(recordings: dict[str, Path]) -> None:
    utterances = [spoken("flac", recordings["flac"], "今天，开会"), spoken("wav", recordings["wav"], "今天开会。")]
    ranking = rank_suspects(Evidence(utterances, {"0": 0.1, "1": 0.2}, []))
    assert not ranking.other_text
    assert "2 references occur more than once, with the same audio and the same text" in ranking.notes


def test_a_reference_without_text_comes_first() -> None:
    utterances = [spoken("a", None, "明日放假"), spoken("b", None, "。")]
    ranking = rank_suspects(Evidence(utterances, {"0": 0.1, "1": 0.2}, []))
    assert ranking.order[0].id == "b" and reasons(ranking, utterances[1])[0] == "the reference holds no text"
