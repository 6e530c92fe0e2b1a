"""Names, terms, numbers and Latin words of a transcript, as spans of characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex

Span = tuple[int, int]
"""Index of the first character, and of the one after the last."""

_NUMERAL = "零〇一二两三四五六七八九十百千万亿"
# Digits not next to a Latin letter; several numerals, or one that hardly means anything else (not 一 十 千 万).
_NUMBER = regex.compile(
    rf"(?<![[\p{{L}}\p{{M}}]--\p{{Han}}]|[0-9０-９])"
    r"[0-9０-９]++(?:[.,:/．，：～~-][0-9０-９]++)*+[%％‰]?(?![[\p{L}\p{M}]--\p{Han}])(?:[百千万亿]++)?(?:年(?!后|前))?"
    rf"|[{_NUMERAL}]+分之[{_NUMERAL}]+(?:点[{_NUMERAL}]+)?|[{_NUMERAL}]+点[{_NUMERAL}]+"
    rf"|(?:(?!万一(?![{_NUMERAL}]))[{_NUMERAL}]{{2,}}|[二两三四五六七八九])(?:年(?!后|前))?",
    regex.V1,
)
# A word of Latin letters with its digits: OK, LPL, 5G, K12, T+1, don't.
_LATIN = regex.compile(
    r"[[\p{L}\p{N}\p{M}]--\p{Han}]*[[\p{L}]--\p{Han}][[\p{L}\p{N}\p{M}]--\p{Han}]*(?:[-+'’][[\p{L}\p{N}\p{M}]--\p{Han}]+)*",
    regex.V1,
)
# The hundred or so most frequent surnames; with a title behind, or 老 or 小 in front, they are a person's name.
_SURNAME = (
    "欧阳|司马|上官|诸葛|[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶"
    "阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文]"
)
_TITLE = (
    "先生|女士|小姐|老师|教授|博士|医生|大夫|律师|师傅|总裁|总监|总经理|经理|董事长|主任|主席|书记|局长|处长|科长|部长|"
    "市长|院长|校长|所长|行长|队长|阿姨"
)
_TITLED = regex.compile(
    rf"(?:{_SURNAME})\p{{Han}}{{0,2}}?(?:{_TITLE})"
    rf"|(?:{_SURNAME})(?:[董哥姐叔]|总(?![之是体的算数量会要在有统共额部]))"
    rf"|(?<!\p{{Han}})[老小](?:{_SURNAME})(?!\p{{Han}})",
    regex.V1,
)


def number_spans(text: str) -> list[Span]:
    """Numbers in digits or in numerals, with their marks and units of ten thousand (12,000万, 百分之五十, 二零二四年).

    A single numeral counts when it is one of 二 to 九: 一些, 万一 and 十分 hold no number. Digits next to a Latin
    letter (5G) are part of a word.
    """
    return [match.span() for match in _NUMBER.finditer(text)]


def latin_spans(text: str) -> list[Span]:
    """Words of Latin letters, with digits that belong to them: abbreviations and other languages."""
    return [match.span() for match in _LATIN.finditer(text)]


def titled_names(text: str) -> list[Span]:
    """Persons that a rule can find: a frequent surname, up to two characters and a title (吴总, 张勇老师), or 老王."""
    return [match.span() for match in _TITLED.finditer(text)]


def word_spans(text: str, words: Sequence[str]) -> list[Span]:
    """Occurrences of words of a list, ignoring case; the longest match wins, and none overlap."""
    if not words:
        return []
    return [match.span() for match in _pattern_of(tuple(words)).finditer(text)]


def covered(spans: Iterable[Span]) -> set[int]:
    """Indices of all characters inside some spans."""
    return {index for start, end in spans for index in range(start, end)}


@lru_cache(maxsize=16)
def _pattern_of(words: tuple[str, ...]) -> regex.Pattern[str]:
    longest_first = sorted(set(words), key=lambda word: (-len(word), word))
    # A Latin term is found as a word only: AI is not in MAIN, and G2, which is said g二, not in g二十.
    edge = r"[[\p{L}\p{N}]--\p{Han}]"
    alternatives = (
        (rf"(?<!{edge})" if _is_latin(word[0]) else "")
        + regex.escape(word, literal_spaces=True)
        + (rf"(?!{edge})" if _is_latin(word[-1]) else "")
        + (f"(?![{_NUMERAL}])" if word[-1] in _NUMERAL and any(map(_is_latin, word)) else "")
        for word in longest_first
    )
    return regex.compile("|".join(alternatives), regex.V1 | regex.IGNORECASE)


def _is_latin(character: str) -> bool:
    return character.isalnum() and not regex.fullmatch(r"\p{Han}", character)
