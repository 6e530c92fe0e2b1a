"""How Han characters are read: syllables without tone for the error rate, all readings for homophones.

A character is read without its context. The first reading of pypinyin's dictionary, the most frequent one, is its
syllable: 行 is always ``xing``, in 银行 too. So a character never differs from itself, the error rate over syllables
never exceeds the one over characters, and what a text costs is one look-up a character.
"""

from __future__ import annotations

from functools import lru_cache

import regex

_HAN = regex.compile(r"\p{Han}")
# Syllables are numbered from here on: the private plane 15, which no transcript uses.
_FIRST = 0xF0000


class _Syllables(dict[int, int]):
    """For ``str.translate``: a Han character becomes its syllable's own character, everything else stays."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[str, int] = {}

    def __missing__(self, code: int) -> int:
        syllable = _syllable(chr(code))
        number = code if syllable is None else _FIRST + self._numbers.setdefault(syllable, len(self._numbers))
        self[code] = number
        return number


_SYLLABLES = _Syllables()


def in_syllables(text: str) -> str:
    """``text`` with one character for each toneless syllable, so that 在 and 再 become the same character.

    Everything that is no Han character, or has no known reading, stays as it is; so does the length.
    """
    return text.translate(_SYLLABLES)


def readings(character: str) -> frozenset[str]:
    """All readings of a Han character with tone, as ``hang2`` (5 is the neutral tone); empty for any other character.

    Example: 行 gives ``{"xing2", "hang2", ...}``.
    """
    return _readings(character) if _HAN.fullmatch(character) else frozenset()


@lru_cache(maxsize=None)
def _readings(character: str) -> frozenset[str]:
    from pypinyin import Style, pinyin  # a quarter of a second, which only scoring needs

    [found] = pinyin(
        character, style=Style.TONE3, heteronym=True, neutral_tone_with_five=True, errors=lambda _: [[]]
    ) or [[]]
    return frozenset(found)


def _syllable(character: str) -> str | None:
    if not _HAN.fullmatch(character):
        return None
    from pypinyin import Style, lazy_pinyin

    return next(iter(lazy_pinyin(character, style=Style.NORMAL, errors="ignore")), None)
