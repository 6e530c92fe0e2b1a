"""Mandarin sentences from templates such as "{person}在{place}", and numbers as they are spoken."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """``text`` is the transcript; ``spoken`` is synthesized, with words separated by spaces (which make no pause)."""

    text: str
    spoken: str


Slot = Callable[[random.Random], Sentence]

_SLOT = re.compile(r"(\{\w+\})")


def plain(word: str) -> Sentence:
    """A word that is spoken as written."""
    return Sentence(word, word)


def any_of(words: Sequence[str]) -> Slot:
    """Slot for plain words."""
    return lambda rng: plain(rng.choice(words))


def any_abbreviation(spoken_by_written: Mapping[str, str]) -> Slot:
    """Slot for abbreviations with their spoken form."""
    entries = [Sentence(written, spoken) for written, spoken in spoken_by_written.items()]
    return lambda rng: rng.choice(entries)


def fill(template: str, slots: Mapping[str, Slot], rng: random.Random) -> list[Sentence]:
    """Words of a filled template: "{person}在{place}" -> 我, 在, 学校; text between slots is one word."""
    pieces = [piece for piece in _SLOT.split(template) if piece]
    return [slots[piece[1:-1]](rng) if _SLOT.fullmatch(piece) else plain(piece) for piece in pieces]


def join(words: Sequence[Sentence]) -> Sentence:
    """Sentence of these words."""
    return Sentence("".join(word.text for word in words), " ".join(word.spoken for word in words))


def literals(templates: Sequence[str]) -> str:
    """All text of the templates outside slots."""
    return "".join(_SLOT.sub("", template) for template in templates)


# Spoken numbers: 7000 -> 七千, 235 -> 两百三十五, 1.3 -> 一点三, 2024 (a year) -> 二零二四.

DIGITS = "零一二三四五六七八九"
_UNITS = ("", "十", "百", "千")
_GROUPS = ("", "万", "亿")


def spoken_number(written: str) -> str:
    """Spoken form of a number such as "7000" or "1.3", below 10^12, with 两 before 百, 千, 万 and 亿."""
    whole, _, fraction = written.partition(".")
    return spoken_integer(int(whole)) + ("点" + spoken_digits(fraction) if fraction else "")


def spoken_digits(digits: str) -> str:
    """Digit by digit, as years, room numbers and decimals are read: "302" -> 三零二."""
    return "".join(DIGITS[int(digit)] for digit in digits)


def spoken_integer(value: int) -> str:
    """Spoken form of 0 <= ``value`` < 10^12."""
    if value == 0:
        return DIGITS[0]
    words, low_groups = "", value
    for index in reversed(range(len(_GROUPS))):
        group, low_groups = divmod(low_groups, 10_000**index)
        if group == 0:
            continue
        if words and group < 1000:
            words += DIGITS[0]
        words += ("两" if group == 2 and index else _group(group)) + _GROUPS[index]
    return words[1:] if words.startswith("一十") else words


def _group(value: int) -> str:
    """One group of four digits, 1 <= value <= 9999: 1005 -> 一千零五, 2200 -> 两千两百, 20 -> 二十."""
    words, gap = "", False
    for place in (3, 2, 1, 0):
        digit = value // 10**place % 10
        if digit == 0:
            gap = bool(words)
            continue
        words += DIGITS[0] if gap else ""
        words += ("两" if digit == 2 and place >= 2 else DIGITS[digit]) + _UNITS[place]
        gap = False
    return words


def spoken_count(written: str) -> str:
    """As ``spoken_number``, but 2 before a measure word or a unit is 两."""
    return "两" if written == "2" else spoken_number(written)
