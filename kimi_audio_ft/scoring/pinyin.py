"""How Han characters are read: syllables without tone for the error rate, all readings for homophones.

A character is read without its context. The first reading of pypinyin's dictionary, the most frequent one, is its
syllable: 行 is always ``xing``, in 银行 too. So a character never differs from itself, the error rate over syllables
never exceeds the one over characters, and what a text costs is one look-up a character.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import regex

_HAN = regex.compile(r"\p{Han}")


class _Syllables(dict[str, str]):
    """Toneless syllable of every Han character that was asked for; any other text is itself."""

    def __missing__(self, unit: str) -> str:
        syllable = next(iter(_first_reading(unit)), unit) if _HAN.fullmatch(unit) else unit
        if len(unit) == 1:  # words and numbers are endless
            self[unit] = syllable
        return syllable


_SYLLABLES = _Syllables()


def in_syllables(units: Iterable[str]) -> list[str]:
    """Units of the mixed error rate with every Han character as its toneless syllable: 在 and 再 are both ``zai``.

    Words of other letters, numbers, and characters without a known reading stay as they are.
    """
    return [_SYLLABLES[unit] for unit in units]


@lru_cache(maxsize=100_000)
def readings(character: str) -> frozenset[str]:
    """All readings of a Han character with tone, as ``hang2`` (5 is the neutral tone); empty for any other character.

    Example: 行 gives ``{"xing2", "hang2", ...}``.
    """
    if not _HAN.fullmatch(character):
        return frozenset()
    from pypinyin import Style, pinyin  # a quarter of a second, which only scoring needs

    found = pinyin(character, style=Style.TONE3, heteronym=True, neutral_tone_with_five=True, errors="ignore")
    return frozenset(reading for readings in found for reading in readings if reading)


def _first_reading(character: str) -> list[str]:
    from pypinyin import Style, lazy_pinyin

    return lazy_pinyin(character, style=Style.NORMAL, errors="ignore")
