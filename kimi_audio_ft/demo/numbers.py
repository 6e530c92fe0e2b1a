"""Numbers as Mandarin speaks them: 7000 -> 七千, 235 -> 两百三十五, 1.3 -> 一点三, 2024 (a year) -> 二零二四."""

from __future__ import annotations

import re

from cn2an import an2cn


def spoken_number(number: str | int) -> str:
    """Spoken form of a number such as "7000" or "1.3", below 10^12, with 两 before 百, 千, 万 and 亿."""
    spoken = re.sub("二(?=[百千])", "两", an2cn(number, "low"))
    return re.sub("(^|亿零?)二(?=[万亿])", r"\1两", spoken)


def spoken_digits(digits: str) -> str:
    """Digit by digit, as years, room numbers and decimals are read: "302" -> 三零二."""
    return "".join("零一二三四五六七八九"[int(digit)] for digit in digits)


def spoken_count(written: str) -> str:
    """As ``spoken_number``, but 2 before a measure word or a unit is 两."""
    return "两" if written == "2" else spoken_number(written)
