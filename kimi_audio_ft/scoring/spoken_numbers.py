"""Numbers as they are said in Mandarin: 7000万 becomes 七千万, so that a number's writing is no error.

Spans are found and their kinds told apart here; the readings of whole numbers are cn2an's. wetext, whose grammars take
whole sentences, was measured and left: a number takes it a millisecond, against 0.02, and it reads 110 as a telephone
number, 1-2 as a score, T+1 as T正一 and $2.5亿 not at all, so that each of these had to be kept from it.

Inverse text normalisation, words to digits, is never used: it would turn 十分感谢 into 10分感谢.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import regex

_HAN, _DIGIT = regex.compile(r"\p{Han}"), re.compile("[0-9]")
_LETTER = r"[[\p{L}\p{M}]--\p{Han}]"
_ANY_LETTER = regex.compile(_LETTER, regex.V1)
_ONE_BY_ONE = str.maketrans("0123456789", "零一二三四五六七八九")

_NUMBER = r"(?>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?)"
_PART = rf"{_NUMBER}[%‰]?"
# Words in front of digits that are read one by one, and behind those that are not.
_CALLED = "电话|手机|号码|热线|拨打|拨|尾号|编号|账号|卡号|单号|工号|学号|邮编|代码|验证码|密码|房间"
_COUNTED = "万亿多余元块个人名位次年天米条"
_LONGEST = 16  # digits that cn2an reads as one number
_CURRENCIES = {"$": "美元", "¥": "元", "€": "欧元", "£": "英镑"}

# Kinds of spans, the first that fits wins. A digit next to a Latin letter belongs to a word (5g, k12) and stays.
_KINDS = {
    "date": r"(?>[12][0-9]{3}(?P<separator>[-/.])[01]?[0-9](?P=separator)[0-3]?[0-9])",
    "time": r"(?>(?:1[0-9]|2[0-4]|0?[1-9]):[0-5][0-9](?::[0-5][0-9])?)(?![:])",
    "ratio": r"(?>[0-9]++:[0-9]++)",
    "phone": r"(?>0[0-9]{2,3}-[0-9]{7,8}|[48]00-[0-9]{3,4}-?[0-9]{3,4}|1[3-9][0-9]{9})",
    "called": rf"(?<=(?:{_CALLED})(?:是|为|:)?)(?>[0-9]{{3,}})(?!\.[0-9])",
    "version": r"(?>[0-9]++(?:\.[0-9]++){2,})",
    "fraction": r"(?>[0-9]++/[0-9]++)",
    "range": rf"(?>{_PART}(?:[-~]{_PART})++)",
    "percent": rf"(?:(?<![\p{{L}}\p{{N}}])[-+])?{_NUMBER}[%‰]",
    "money": rf"\p{{Sc}}{_NUMBER}[万亿]*+",
    "degrees": rf"(?:(?<![\p{{L}}\p{{N}}])[-+])?{_NUMBER}°c?",
    "year": r"(?>[0-9]{4}|0[0-9])(?=年)|[05-9]0(?=后)",
    "digits": rf"(?>0[0-9]++|[0-9]{{17,}}|[0-9]{{7,}}+(?<!000)(?![{_COUNTED}]))(?!\.[0-9])",
    "number": rf"(?:(?<![[\p{{L}}\p{{N}}]--\p{{Han}}])[-+])?{_NUMBER}",
}
_SPAN = regex.compile(
    rf"(?=[0-9+\-]|\p{{Sc}})(?<!{_LETTER}|[0-9])(?:"
    + "|".join(f"(?P<{kind}>{span})" for kind, span in _KINDS.items())
    + rf")(?!{_LETTER}|[0-9])",
    regex.V1,
)
# T+1, 3+2
_PLUS = regex.compile(rf"(?<=[\p{{L}}\p{{N}}])\+(?=[0-9]++(?!{_LETTER}))", regex.V1)

_TELEPHONE_ONE = regex.compile(r"(?<=[零一二三四五六七八九幺])幺|幺(?=[零一二三四五六七八九幺])")
# Not the weight: 二两, 半斤八两, 银两.
_TWO = regex.compile(r"两(?=[百千万亿])|(?<![一二三四五六七八九十百千万几半斤银0-9])两")
# 五G is one word, 5g.
_GENERATION = regex.compile(
    rf"(?<![零一二三四五六七八九十百千万亿点])[一二三四五六七八九](?=[gdk](?!{_LETTER}|[0-9]))", regex.V1
)
_FOLDED, _BEFORE_LETTER = re.compile("[〇幺两]"), re.compile("[一二三四五六七八九][gdk]")


def spell_numbers(text: str) -> str:
    """``text`` (lower case, half width) with every number as it is said.

    Text that has Latin letters and no Han character is not Mandarin, and stays as it is.
    """
    if not _DIGIT.search(text) or _is_foreign(text):
        return text
    return _SPAN.sub(_spoken, _PLUS.sub("加", text))


def fold_numerals(text: str) -> str:
    """``text`` (without marks) with one writing for numerals that have several.

    〇 becomes 零; 两 becomes 二 except as a weight, and 幺 in digits 一: for the same word a transcript may have
    either. 五g becomes 5g.
    """
    if _FOLDED.search(text):
        text = _TELEPHONE_ONE.sub("一", _TWO.sub("二", text.replace("〇", "零")))
    if _BEFORE_LETTER.search(text):
        text = _GENERATION.sub(lambda digit: str("零一二三四五六七八九".index(digit[0])), text)
    return text


def _is_foreign(text: str) -> bool:
    return not _HAN.search(text) and _ANY_LETTER.search(text) is not None


def _spoken(span: regex.Match[str]) -> str:
    kind = span.lastgroup
    assert kind is not None
    return _READERS[kind](span[0].replace(",", ""))


def _one_by_one(digits: str) -> str:
    return digits.replace("-", "").translate(_ONE_BY_ONE)


@lru_cache(maxsize=100_000)
def _whole(digits: str) -> str:
    if len(digits) > _LONGEST:
        return _one_by_one(digits)
    from cn2an import an2cn  # some tenths of a second, which only scoring needs

    return an2cn(digits, "low")


def _number(number: str) -> str:
    """A cardinal or decimal number, with its sign."""
    sign = {"-": "负", "+": "正"}.get(number[0], "")
    whole, point, decimals = number.lstrip("+-").partition(".")
    return sign + _whole(whole) + ("点" if point else "") + _one_by_one(decimals)


def _date(text: str) -> str:
    year, month, day = regex.split("[-/.]", text)
    return f"{_one_by_one(year)}年{_number(month)}月{_number(day)}日"


def _time(text: str) -> str:
    """10:30 is 十点三十分, 10:05 十点零五分, and 11:00 十一点."""
    hour, minute, *second = text.split(":")
    parts = [f"{_number(hour)}点"]
    if second or minute != "00":
        parts.append(f"{'零' if minute[0] == '0' and minute != '00' else ''}{_number(minute)}分")
    return "".join([*parts, *(f"{_number(rest)}秒" for rest in second)])


def _part(text: str) -> str:
    """A number, or a percentage: 50% is 百分之五十, 100% 百分之百."""
    if text[-1] not in "%‰":
        return _number(text)
    said = _number(text[:-1])
    return {"%": "百分之", "‰": "千分之"}[text[-1]] + ("百" if said == "一百" else said)


def _fraction(text: str) -> str:
    above, below = text.split("/")
    return f"{_number(below)}分之{_number(above)}"


def _money(text: str) -> str:
    number = text[1:].rstrip("万亿")
    return _number(number) + text[1 + len(number) :] + _CURRENCIES.get(text[0], "")


def _degrees(text: str) -> str:
    number, _, celsius = text.partition("°")
    return _number(number) + ("摄氏度" if celsius else "度")


def _joined(separator: str, word: str, read: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: word.join(read(part) for part in text.replace("~", "-").split(separator))


_READERS: dict[str, Callable[[str], str]] = {
    "date": _date,
    "time": _time,
    "ratio": _joined(":", "比", _number),
    "phone": _one_by_one,
    "called": _one_by_one,
    "version": _joined(".", "点", _number),
    "fraction": _fraction,
    "range": _joined("-", "到", _part),
    "percent": _part,
    "money": _money,
    "degrees": _degrees,
    "year": _one_by_one,
    "digits": _one_by_one,
    "number": _number,
}
