from __future__ import annotations

import random

import pytest

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring import NORMALISATIONS, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  你好，world! \n", "你好，world!"),
        ("a\u3000b  c", "a\u3000b  c"),
        ("cafe\u0301", "café"),
        ("５Ｇ", "５Ｇ"),
        ("", ""),
    ],
)
def test_strict_only_strips_and_composes(text: str, expected: str) -> None:
    assert normalise(text, "strict") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("对，我们是7000万投在这个二级市场OK。", "对我们是七千万投在这个二级市场ok"),
        ("我 只 知道\u3000说 \n", "我只知道说"),
        ("所有 LPL 的", "所有lpl的"),
        ("hello,  New   York!", "hello new york"),
        ("LPL，OK", "lpl ok"),
        ("ＬＰＬ５Ｇ（测试）", "lpl五g测试"),
        ("“don’t” don't", "dont dont"),
        ("well-known T+1", "well known t 1"),
        ("《书》——他说……￥", "书他说"),
        ("零\u200b宽\ufeff字", "零宽字"),
        ("cafe\u0301 İ", "café i\u0307"),
        ("。！？", ""),
    ],
)
def test_normalised_text(text: str, expected: str) -> None:
    assert normalise(text, "normalised") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("２.5 bn， 1.3 bn.", "2.5 bn 1.3 bn"),
        ("12,000 users， 50％", "12,000 users 50%"),
        ("a 1，2，3", "a 1 2 3"),
        ("10：30 or 3-5, 3/4 x", "10:30 or 3-5 3/4 x"),
        ("$5，-5 K", "$5 -5 k"),
        ("a-5 b", "a 5 b"),
        ("x 5.", "x 5"),
    ],
)
def test_marks_inside_the_numbers_of_other_languages_stay(text: str, expected: str) -> None:
    assert normalise(text, "normalised") == expected


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_a_second_pass_changes_nothing(name: str) -> None:
    rng = random.Random(0)
    pieces = [*"你好万aBé5０.,:-/%$+' \t\u3000，。！\u200b\u0301İ①ﬁ℃~_"]
    for _ in range(3000):
        once = normalise("".join(rng.choices(pieces, k=12)), name)
        assert normalise(once, name) == once


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"normalisation='lenient'.*strict, normalised, normalised_no_fillers"):
        normalise("x", "lenient")
