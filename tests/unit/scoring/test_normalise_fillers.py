from __future__ import annotations

import random

import pytest

from kimi_audio_ft.scoring import normalise, score
from kimi_audio_ft.scoring.normalise import drop_erhua, dropping, spoken_rules


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


@pytest.mark.parametrize("seed", range(3))
def test_a_second_pass_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    rules = spoken_rules(("嗯", "那", "对", "OK", "这个"), erhua=False)
    pieces = ["嗯", "那", "对", "对于", "ok", "OK", "这个", "儿", "女儿", "我", "，", " ", "。", "a", "5", "-"]
    for _ in range(700):
        once = normalise("".join(rng.choices(pieces, k=8)), rules)
        assert normalise(once, rules) == once
