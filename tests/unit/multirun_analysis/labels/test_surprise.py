"""The most surprising token, against figures worked out by hand, and the word that it falls in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multirun_analysis.labels.evidence import Utterance
from multirun_analysis.labels.surprise import Surprise, heard_at, parted_at, surprises


def utterance(name: str, text: str, losses: dict[str, list[float]], starts: list[int] | None = None) -> Utterance:
    found = {adapter: np.array(values, np.float32) for adapter, values in losses.items()}
    places = np.array(range(len(text) + 1) if starts is None else starts, np.int32)
    return Utterance(name, text, None, name, 1.0, token_starts=places, token_losses=found)


def test_losses_are_multiples_of_what_is_usual_for_such_a_token() -> None:
    made = [utterance(str(n), "今天", {"a": [0.5, 1.0, 0.1]}) for n in range(40)]
    made += [utterance("ends", "今天", {"a": [0.5, 1.0, 1.0]}), utterance("word", "今天", {"a": [0.5, 4.0, 0.1]})]
    found = surprises(made, {"a": 1.0})
    average = (42 * 0.5 + 41 * 1.0 + 4.0 + 41 * 0.1 + 1.0) / 126
    usual = (41 * 0.1 + 5 * average) / 46  # of the other ends of texts, and five tokens of average loss
    assert found["ends"].times == pytest.approx(1.0 / usual, rel=1e-5)
    assert found["ends"].value == pytest.approx(1.0 / usual - math.log(3), rel=1e-5)
    assert (found["ends"].start, found["ends"].end) == (2, 2)
    assert (found["word"].start, found["word"].end) == (1, 2)
    assert max(found[str(n)].value for n in range(40)) < min(found["ends"].value, found["word"].value)


def test_adapters_count_by_their_weights_and_only_those_with_token_losses() -> None:
    made = [utterance(str(n), "今天", {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]}) for n in range(40)]
    made += [utterance("x", "今天", {"a": [9.0, 1.0, 1.0], "b": [1.0, 9.0, 1.0]}), utterance("none", "今天", {}, [])]
    by_a, by_b = surprises(made, {"a": 0.9, "b": 0.1}), surprises(made, {"a": 0.1, "b": 0.9})
    assert (by_a["x"].start, by_b["x"].start) == (0, 1) and by_a.keys() == {one.id for one in made[:-1]}
    alone = surprises([utterance("x", "今天", {"b": [1.0, 9.0, 1.0]})], {"a": 0.9, "b": 0.1})
    assert alone["x"].start == 1


@pytest.mark.parametrize(
    ("text", "starts", "high", "word"),
    [
        ("给到38家吧", [0, 1, 2, 3, 4, 5, 6], {3}, "38"),  # the whole number
        ("做了IPO的", [0, 1, 2, 3, 4, 5, 6], {2}, "IPO"),
        ("的二魏额场", [0, 1, 2, 3, 4, 5], {2, 3}, "魏额"),  # and neighbours that surprise as well
        ("的魏额场", [0, 1, 1, 1, 2, 3, 4], {2}, "魏"),  # a piece of a character
        ("今天开会", [0, 2, 4], {1}, "开会"),  # a token of two
    ],
)
def test_the_word(text: str, starts: list[int], high: set[int], word: str) -> None:
    usual = [utterance(str(n), text, {"a": [1.0] * len(starts)}, starts) for n in range(30)]
    losses = [9.0 if index in high else 1.0 for index in range(len(starts))]
    found = surprises([*usual, utterance("x", text, {"a": losses}, starts)], {"a": 1.0})["x"]
    assert parted_at(text, found)[1] == word and "".join(parted_at(text, found)) == text


@pytest.mark.parametrize(
    ("reference", "heard", "span", "there"),
    [
        ("给到38家", "给到31家", (2, 4), "31"),
        ("给到5家", "给到15家", (2, 3), "15"),
        ("的二魏额场看", "的二级市场看", (2, 4), "级市"),
        ("春季赛", "春季赛不到4.3亿", (3, 3), "不到4.3亿"),
        ("今天", "", (0, 1), ""),
        ("今天开会", "开会", (0, 2), ""),
    ],
)
def test_what_is_heard_there(reference: str, heard: str, span: tuple[int, int], there: str) -> None:
    assert heard_at(reference, heard, Surprise(9.0, 9.0, *span)) == there
