"""Sentences from templates: "{person}在{place}" with a drawing function for each slot."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """``text`` is the transcript; ``spoken`` is what is synthesized, words apart by spaces (which make no pause)."""

    text: str
    spoken: str


Slot = Callable[[random.Random], Sentence]

_SLOT = re.compile(r"(\{\w+\})")


def plain(word: str) -> Sentence:
    """A word that is spoken as it is written."""
    return Sentence(word, word)


def any_of(words: Sequence[str]) -> Slot:
    """A slot for plain words."""
    return lambda rng: plain(rng.choice(words))


def any_abbreviation(spoken_by_written: Mapping[str, str]) -> Slot:
    """A slot for abbreviations, whose spoken form stands beside them."""
    entries = [Sentence(written, spoken) for written, spoken in spoken_by_written.items()]
    return lambda rng: rng.choice(entries)


def fill(template: str, slots: Mapping[str, Slot], rng: random.Random) -> list[Sentence]:
    """Words of ``template``, e.g. "{person}在{place}" -> 我, 在, 学校; what stands between slots is one word."""
    pieces = [piece for piece in _SLOT.split(template) if piece]
    return [slots[piece[1:-1]](rng) if _SLOT.fullmatch(piece) else plain(piece) for piece in pieces]


def join(words: Sequence[Sentence]) -> Sentence:
    """One sentence of ``words``."""
    return Sentence("".join(word.text for word in words), " ".join(word.spoken for word in words))


def literals(templates: Sequence[str]) -> str:
    """All text of ``templates`` outside their slots."""
    return "".join(_SLOT.sub("", template) for template in templates)
