"""The words of a list that a first text sounds like: Mandarin by its syllables without tones, the rest by letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import regex
from rapidfuzz import fuzz, process

_UNITS = regex.compile(r"\p{Han}+|[^\W\p{Han}]+")


def most_alike(words: Sequence[str], text: str, count: int) -> list[str]:
    """The ``count`` words that sound most like some part of a text: the best first, equal ones in the list's order."""
    heard = sounds_of(text)
    found = process.extract(heard, [sounds_of(word) for word in words], scorer=fuzz.partial_ratio, limit=count)
    return [words[place] for _, _, place in found]


@lru_cache(maxsize=100_000)
def sounds_of(text: str) -> str:
    """Syllables of Mandarin, and other words in lower case, with a space before, between and behind them."""
    from pypinyin import lazy_pinyin

    units = _UNITS.findall(unicodedata.normalize("NFKC", text).casefold())
    return " ".join(["", *(syllable for unit in units for syllable in lazy_pinyin(unit)), ""])
