from __future__ import annotations

import random

import pytest

from kimi_audio_ft.demo.mandarin import (
    Sentence,
    any_abbreviation,
    any_of,
    fill,
    join,
    literals,
    plain,
    spoken_count,
    spoken_digits,
    spoken_number,
)


def test_a_template_is_filled_slot_by_slot() -> None:
    slots = {"person": any_of(["我"]), "latin": any_abbreviation(["5G"])}
    words = fill("{person}在用{latin}吗", slots, random.Random(0))
    assert words == [plain("我"), plain("在用"), Sentence("5G", "五 G"), plain("吗")]
    assert join(words) == Sentence("我在用5G吗", "我 在用 五 G 吗")


def test_every_choice_of_a_slot_is_drawn() -> None:
    rng, slot = random.Random(0), any_of(["甲", "乙", "丙"])
    assert {slot(rng).text for _ in range(50)} == {"甲", "乙", "丙"}


def test_a_slot_that_nobody_defined_is_an_error() -> None:
    with pytest.raises(KeyError, match="place"):
        fill("去{place}", {}, random.Random(0))


def test_text_outside_the_slots() -> None:
    assert literals(["{person}在{place}", "请{person}", "好"]) == "在请好"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        *(("0", "零"), ("10", "十"), ("12", "十二"), ("20", "二十"), ("110", "一百一十"), ("101", "一百零一")),
        *(("235", "两百三十五"), ("1005", "一千零五"), ("2200", "两千两百"), ("7000", "七千"), ("10005", "一万零五")),
        *(("20000", "两万"), ("120000", "十二万"), ("70000000", "七千万"), ("200000000", "两亿")),
        *(("350000000", "三亿五千万"), ("100000001", "一亿零一"), ("1.3", "一点三"), ("0.25", "零点二五")),
    ],
)
def test_spoken_numbers(written: str, spoken: str) -> None:
    assert spoken_number(written) == spoken


def test_spoken_digits_and_counts() -> None:
    assert spoken_digits("2024") == "二零二四"
    assert (spoken_count("2"), spoken_count("12")) == ("两", "十二")
