"""The target domain: what the experiment report stumbles over, and terms that it alone has."""

from __future__ import annotations

import re

import pytest

from kimi_audio_ft.demo.mandarin import Sentence
from kimi_audio_ft.demo.meetings import HOMOPHONES, has_own_term


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("张勇看一下", True),
        ("投GP了", True),
        ("用GPS", False),
        ("打开APP", False),
        ("LPLX", False),
        ("今天开会", False),
    ],
)
def test_an_abbreviation_counts_as_a_whole_and_only_where_no_other_domain_has_it(text: str, own: bool) -> None:
    assert has_own_term(text) is own


def test_homophones_are_as_long_as_their_words_and_differ_from_them() -> None:
    assert [own for own, other in HOMOPHONES.items() if len(own) != len(other) or own == other] == []
    assert all(has_own_term(own) and not has_own_term(other) for own, other in HOMOPHONES.items())


def test_target_has_what_the_report_stumbles_over(target_sentences: list[Sentence]) -> None:
    texts = [sentence.text for sentence in target_sentences]
    numbers = (r"\d0万", r"\d\.\d亿", r"\d+月\d+号", r"20\d\d年")
    for pattern in (*numbers, "LPL", "5G", "二级市场", "[嗯呃啊]", "张勇", "吴耀飞"):
        assert sum(bool(re.search(pattern, text)) for text in texts) >= 5, pattern
    assert sum(map(has_own_term, texts)) > 0.95 * len(texts)
