"""The text among samples, and how sure it is."""

from __future__ import annotations

import pytest

from kimi_audio_ft.decoding.request import Answer
from kimi_audio_ft.transcribe.confidence import Text, joined, text_of


def test_a_single_answer_is_the_text() -> None:
    found = text_of([Answer("今天开会", True, -3.0, 6)])
    assert found == Text("今天开会", -3.0, 6, None, True) and found.avg_logprob == -0.5
    assert text_of([Answer("")]).avg_logprob is None


def test_of_samples_the_one_that_differs_least_is_taken() -> None:
    answers = [Answer(text, False, -1.0, 4) for text in ("今天开会吧", "今天开会", "今天来会", "明年再说")]
    found = text_of(answers)
    assert found.text == "今天开会"
    assert found.agreement == pytest.approx((4 / 5 + 3 / 4 + 0) / 3)


def test_of_equally_near_samples_the_likeliest_is_taken() -> None:
    answers = [Answer("利润", False, -2.0, 2), Answer("利率", False, -1.0, 2)]
    assert text_of(answers).text == "利率" and text_of(answers[::-1]).text == "利率"
    same = [Answer("好", False, -1.0, 2)] * 3
    assert text_of(same).agreement == 1.0


def test_texts_are_compared_as_the_error_rate_does() -> None:
    answers = [Answer("你好", False, -2.0, 4), Answer("再见", False, -3.0, 4), Answer(" 你好", False, -1.0, 4)]
    found = text_of(answers)
    assert found.text == " 你好" and found.agreement == 0.5, "white space around a text is no edit"


def test_a_recordings_text_is_joined_from_its_pieces() -> None:
    pieces = [Text("今天开会", -4.0, 4, 1.0), Text("OK", -1.0, 1, 0.5), Text("let's go", -2.0, 3), Text("", 0.0, 0)]
    whole = joined(pieces)
    assert whole.text == "今天开会OK let's go"
    assert whole.avg_logprob == -7 / 8 and whole.agreement == pytest.approx((4 + 0.5) / 5)
    assert joined([]) == Text("", 0, 0)
    assert joined([Text("a", -1.0, 1, truncated=True), Text("b", -1.0, 1)]).truncated
