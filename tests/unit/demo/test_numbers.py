from __future__ import annotations

import pytest

from kimi_audio_ft.demo.numbers import spoken_count, spoken_digits, spoken_number


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
