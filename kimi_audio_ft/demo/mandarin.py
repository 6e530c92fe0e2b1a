"""Mandarin sentences from templates such as "{person}在{place}", and numbers as they are spoken."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cn2an import an2cn

from kimi_audio_ft.files import read_yaml
from kimi_audio_ft.paths import PACKAGE


@dataclass(frozen=True)
class Sentence:
    """``text`` is the transcript; ``spoken`` is synthesized, with words separated by spaces (which make no pause)."""

    text: str
    spoken: str


Slot = Callable[[random.Random], Sentence]

_SLOT = re.compile(r"(\{\w+\})")
_READ_AS_WORDS = ("OK", "APP")


def word_lists(domain: str) -> dict[str, list[str]]:
    """Words and templates of a domain, by kind."""
    lists = read_yaml(PACKAGE / "assets" / "demo_words.yaml", "Install the package again")
    return {name: words.split() for name, words in lists[domain].items()}


def plain(word: str) -> Sentence:
    """A word that is spoken as written."""
    return Sentence(word, word)


def any_of(words: Sequence[str]) -> Slot:
    return lambda rng: plain(rng.choice(words))


def any_abbreviation(words: Sequence[str]) -> Slot:
    """Slot for abbreviations, spelled when spoken (LP -> L P, 5G -> 五 G) but for those that are read as words."""
    entries = [Sentence(word, word if word in _READ_AS_WORDS else " ".join(map(_spelled, word))) for word in words]
    return lambda rng: rng.choice(entries)


def _spelled(character: str) -> str:
    return spoken_digits(character) if character.isdigit() else character


def fill(template: str, slots: Mapping[str, Slot], rng: random.Random) -> list[Sentence]:
    """Words of a filled template: "{person}在{place}" -> 我, 在, 学校; text between slots is one word."""
    pieces = [piece for piece in _SLOT.split(template) if piece]
    return [slots[piece[1:-1]](rng) if _SLOT.fullmatch(piece) else plain(piece) for piece in pieces]


def join(words: Sequence[Sentence]) -> Sentence:
    return Sentence("".join(word.text for word in words), " ".join(word.spoken for word in words))


def literals(templates: Sequence[str]) -> str:
    """All text of the templates outside slots."""
    return "".join(_SLOT.sub("", template) for template in templates)


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
