"""The words of a list that a first text sounds like: Mandarin by its syllables without tones, the rest by letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import regex
from rapidfuzz import fuzz, process

# A part of the identity of all that is decoded with such words: raise it when other words are found.
RETRIEVAL = 2
# Least similarity (0 to 100) of a match. Words that do not occur in a text reach up to about 70, because parts of
# syllables coincide; a word with one of its two syllables misheard mostly scores higher.
_LEAST = 70
_UNITS = regex.compile(r"\p{Han}+|[^\W\p{Han}]+")


def most_alike(words: Sequence[str], text: str, count: int) -> list[str]:
    """At most ``count`` words that sound like some part of a text: the best first, equal ones in the list's order."""
    heard = sounds_of(text)
    if not heard.strip():
        return []
    sounds = [sounds_of(word) for word in words]
    found = process.extract(heard, sounds, scorer=_alike, limit=count, score_cutoff=_LEAST)
    return [words[place] for _, _, place in found]


def _alike(text: str, word: str, **options: Any) -> float:
    """How alike a word and some part of a text are, of 100; a text that is shorter than the word is taken whole."""
    return (fuzz.ratio if len(text) < len(word) else fuzz.partial_ratio)(text, word, **options)


@lru_cache(maxsize=100_000)
def sounds_of(text: str) -> str:
    """Syllables of Mandarin, and other words in lower case, with a space before, between and behind them."""
    from pypinyin import lazy_pinyin

    units = _UNITS.findall(unicodedata.normalize("NFKC", text).casefold())
    return " ".join(["", *(syllable for unit in units for syllable in lazy_pinyin(unit)), ""])
