"""Each sign against figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from multirun_analysis.labels.evidence import Evidence, Utterance, gather
from multirun_analysis.labels.same_audio import listen
from multirun_analysis.labels.signals import consensus, disagreement, out_of_range, percentiles, rank_suspects
from multirun_analysis.labels.suspects import reasons


def heard(reference: str, *votes: str) -> Utterance:
    return Utterance("u", reference, None, "u", 1.0, votes={str(place): vote for place, vote in enumerate(votes)})


@pytest.mark.parametrize(
    ("utterance", "expected"),
    [
        (heard("今天开会", "今天开会", "今天开会"), 0.0),
        (heard("今天开会", "明日放假", "明日放假"), 1.0),  # all agree, and not with the reference
        (heard("今天开会", "一二三四", "五六七八"), 0.0),  # all at a loss
        (heard("今天开会", "今天开会", "明日放假"), 0.5 - 1.0),  # one confirms the reference
        (heard("今天开会", "今天开花", "今天开花"), 0.25),
        (heard("今天，开会。", "今天开会", "今天开会"), 0.0),  # marks are no words
        (heard("今天开会", "", ""), 1.0),
    ],
)
def test_disagreement_is_consensus_against_the_reference(utterance: Utterance, expected: float) -> None:
    assert disagreement(utterance) == pytest.approx(expected)


def test_equal_disagreements_are_ties() -> None:
    """Both are -1/6, and as sums of floats they differ in their last digit."""
    assert disagreement(heard("今天开会", "今天开花", "今天开会", "今天来会")) == disagreement(
        heard("今天开会", "今天来花", "今天开会", "今日来会")
    )


def test_one_transcript_is_no_consensus() -> None:
    assert math.isnan(disagreement(heard("今天", "明天")))


def test_the_best_hypothesis_is_nearest_to_the_others() -> None:
    utterance = heard("x", "今天开花", "今天开会", "今天开会了")
    assert consensus(utterance, ["0", "1", "2"]) == "今天开会"
    assert consensus(heard("x", "甲", "乙"), ["1", "0"]) == "乙"  # a tie: the better adapter stands first


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


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    """A sound as wav and as flac, another of the same length, and a file that is no sound."""
    rng = np.random.default_rng(0)
    sound, other = (np.round(rng.uniform(-9000, 9000, 1600)).astype(np.int16) for _ in range(2))
    paths = {"wav": tmp_path / "a.wav", "flac": tmp_path / "b.flac", "other": tmp_path / "c.wav"}
    for name, samples in (("wav", sound), ("flac", sound), ("other", other)):
        soundfile.write(paths[name], samples, 16_000)
    paths["broken"] = tmp_path / "d.wav"
    paths["broken"].write_text("no sound", encoding="utf-8")
    return paths


def spoken(name: str, path: Path | None, reference: str, *votes: str) -> Utterance:
    texts = {str(place): vote for place, vote in enumerate(votes or ("今天开会", "今天开会"))}
    return Utterance(name, reference, None if path is None else str(path), name, None, votes=texts)


def test_the_same_sound_is_found_in_another_format(recordings: dict[str, Path]) -> None:
    utterances = [spoken(name, path, "今天") for name, path in recordings.items()] + [spoken("none", None, "今天")]
    found = listen(utterances)
    assert {name: [one.id for one in same] for name, same in found.same.items()} == {"wav": ["flac"], "flac": ["wav"]}
    assert found.seconds == {"wav": 0.1, "flac": 0.1, "other": 0.1}
    assert found.missing == 2


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


def test_every_adapter_has_one_vote(write: Callable[..., Path], tmp_path: Path) -> None:
    row = {"id": "a", "repeat": 0, "reference": "今天", "cer": 0.0, "audio": None}
    write(tmp_path / "0", "one", [{**row, "hypothesis": "今天"}, {**row, "repeat": 1, "hypothesis": "明天"}])
    write(tmp_path / "1", "one", [{**row, "hypothesis": "后天", "loss": 0.5}], cer=0.1)
    write(tmp_path / "2", "two", [{**row, "hypothesis": "大天", "loss": 0.7}], cer=0.1)
    evidence = gather([tmp_path])
    (utterance,) = evidence.utterances
    assert utterance.votes == {"one": "今天", "two": "大天"} and utterance.losses == {"one": 0.5, "two": 0.7}
    assert list(evidence.adapters.items()) == [("two", 0.1), ("one", 0.2)]
