from __future__ import annotations

import pytest

from kimi_audio_ft.scoring.error_rates import in_syllables, readings


def test_han_characters_become_toneless_syllables_and_the_rest_stays() -> None:
    assert in_syllables(["在", "再", "绿", "LPL", "2.5", "5G", "〇", "é"]) == [
        *("zai", "zai", "lv", "LPL", "2.5", "5G", "ling", "é")
    ]


def test_a_character_is_read_without_its_context() -> None:
    assert in_syllables("银行") == [*in_syllables("银"), *in_syllables("行")] == ["yin", "xing"]


@pytest.mark.parametrize(
    ("character", "some"),
    [("行", {"xing2", "hang2"}), ("妈", {"ma1"}), ("吗", {"ma5"}), ("A", set()), ("，", set()), ("", set())],
)
def test_all_readings_have_a_tone(character: str, some: set[str]) -> None:
    found = readings(character)
    assert found >= some and bool(found) == bool(some)
    assert all(reading[-1] in "12345" and reading[:-1].isalpha() for reading in found)
