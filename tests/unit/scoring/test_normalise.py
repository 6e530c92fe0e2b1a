from __future__ import annotations

import random
from typing import Any

import pytest

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring import NORMALISATIONS, normalise, score
from kimi_audio_ft.scoring.normalise import FILLER_SOUNDS, drop_erhua, dropping, spoken_rules


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
        ("“don’t” don't", "don't don't"),
        ("well-known T+1", "well known t 1"),
        ("《书》——他说……￥", "书他说"),
        ("零\u200b宽\ufeff字", "零宽字"),
        ("cafe\u0301 İ", "café i\u0307"),
        ("。！？", ""),
        # Marks inside the numbers of other languages stay.
        ("２.5 bn， 1.3 bn.", "2.5 bn 1.3 bn"),
        ("12,000 users， 50％", "12,000 users 50%"),
        ("a 1，2，3", "a 1 2 3"),
        ("10：30 or 3-5, 3/4 x", "10:30 or 3-5 3/4 x"),
        ("$5，-5 K", "$5 -5 k"),
        ("a-5 b", "a 5 b"),
        ("x 5.", "x 5"),
    ],
)
def test_normalised_text(text: str, expected: str) -> None:
    assert normalise(text, "normalised") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("哪儿有花儿", "哪有花"),
        ("一会儿玩儿", "一会玩"),
        ("女儿和儿子在儿童幼儿园", "女儿和儿子在儿童幼儿园"),
        ("婴儿，儿媳，孤儿，小儿科", "婴儿，儿媳，孤儿，小儿科"),
        ("儿", "儿"),
        ("ok儿", "ok儿"),
    ],
)
def test_only_the_suffix_goes(text: str, expected: str) -> None:
    assert drop_erhua(text) == expected


def test_a_sound_that_is_also_a_word_goes_where_it_is_none() -> None:
    assert dropping(FILLER_SOUNDS)("额我们额度的份额，额，余额嗯") == "我们额度的份额，，余额"
    for one, other in (("额度", "度"), ("份额", "份"), ("我们的额度", "我们的度")):
        assert normalise(one, "normalised_no_fillers") != normalise(other, "normalised_no_fillers")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("嗯我们呃走啊", "我们走"),
        ("那，我们对于这个，对，对方对。", "，我们对于这个，，对方对。"),
        ("ok我们book ok", "我们book "),
        ("嗯对对。", "。"),
    ],
)
def test_sounds_go_everywhere_and_words_where_they_stand_alone(text: str, expected: str) -> None:
    assert dropping(("嗯", "呃", "啊", "那", "对", "OK"))(text) == expected


def test_the_same_words_make_the_same_rule() -> None:
    """So that normalised texts are remembered from one trial to the next."""
    assert spoken_rules(("嗯",)) is spoken_rules(("嗯",))
    assert dropping(("嗯", "对")) is dropping(("嗯", "对"))


def test_the_normalised_column_takes_them_by_choice_only() -> None:
    references, hypotheses = {"a": "嗯，我们在哪儿？"}, {"a": "我们在哪"}
    assert score(references, hypotheses, "normalised")["cer"] == 2 / 6
    assert score(references, hypotheses, "normalised_no_fillers")["cer"] == 0
    assert score(references, hypotheses, spoken_rules(("嗯",)))["cer"] == 1 / 5
    assert score(references, hypotheses, spoken_rules((), erhua=False))["cer"] == 1 / 5


FILLERS = spoken_rules(("嗯", "那", "对", "OK", "这个"), erhua=False)


@pytest.mark.parametrize("rules", [*sorted(NORMALISATIONS), FILLERS, spoken_rules(("嗯",), readings=False)])
def test_a_second_pass_changes_nothing(rules: Any) -> None:
    rng = random.Random(0)
    pieces = [*"你好万aBé5０.,:-/%$+' \t\u3000，。！\u200b\u0301İ①ﬁ℃~_"]
    words = ["嗯", "那", "对", "对于", "ok", "OK", "这个", "儿", "女儿", "我", "，", " ", "。", "a", "5", "-"]
    for some, count in ((pieces, 12), (words, 8)):
        for _ in range(2000):
            once = normalise("".join(rng.choices(some, k=count)), rules)
            assert normalise(once, rules) == once


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"normalisation='lenient'.*strict, normalised, normalised_no_fillers"):
        normalise("x", "lenient")
