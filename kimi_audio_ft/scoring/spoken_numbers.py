"""Numbers as they are said in Mandarin: 7000万 becomes 七千万, so that a number's writing is no error.

Spans and their kinds are found here; the readings of whole numbers are cn2an's. The grammars of wetext take fifty times
as long (a millisecond), and read 110 as a telephone number, 1-2 as a score, T+1 as T正一 and $2.5亿 not at all.

Inverse text normalisation, words to digits, is never used: it would turn 十分感谢 into 10分感谢.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import pairwise

import regex

_HAN, _DIGIT = regex.compile(r"\p{Han}"), re.compile("[0-9]")
_LETTER = r"[[\p{L}\p{M}]--\p{Han}]"
_ANY_LETTER = regex.compile(_LETTER, regex.V1)
_CHUNK = regex.compile(r"\S*[\p{L}\p{M}\p{N}]\S*")
_ONE_BY_ONE = str.maketrans("0123456789", "零一二三四五六七八九")

_NUMBER = r"(?>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?)"
_PART = rf"{_NUMBER}[%‰]?"
_SIGNED = r"(?:(?<![[\p{L}\p{N}]--\p{Han}])[-+])?"
# Words in front of digits that are read one by one, and behind those that are not.
_CALLED = "电话|手机|号码|热线|拨打|拨|尾号|编号|账号|卡号|单号|工号|学号|邮编|代码|验证码|密码|房间"
_COUNTED = "万亿多余元块个人名位次年天米条"
_LONGEST = 16  # digits that cn2an reads as one number
_CURRENCIES = {"$": "美元", "¥": "元", "€": "欧元", "£": "英镑"}

# Other signs for the same mark, which NFKC leaves alone: minus, the fraction stroke of ½, wave dash.
_SIGNS = str.maketrans({"\u2212": "-", "\u2044": "/", "\u301c": "~"})
# 二○二四, with a circle for the zero
_CIRCLE = re.compile("(?<=[零〇一二三四五六七八九])[○◯]+|[○◯]+(?=[零〇一二三四五六七八九])")
# 3–5, 3—5; and 8月1日-5日, where a minus would make no sense
_DASH = re.compile("(?<=[0-9%‰])[\u2010-\u2014](?=[0-9])")
_UNTIL = re.compile("(?<=[0-9][年月日号点时分秒个元块万亿度人天周岁米件名位次])[-~\u2010-\u2014](?=[0-9])")
# 50 %, $ 5, and 2024 年, for its reading depends on what follows.
_SPACE = regex.compile(r"(?<=[0-9])\s+(?=[%‰°\p{Han}])|(?<=\p{Sc})\s+(?=[0-9])|(?<=\p{Han})\s+(?=[0-9])")

# 7×24
_TIMES = re.compile("(?<=[0-9])×(?=[0-9])")
# T+1, 3+2
_PLUS = regex.compile(r"(?<=[\p{L}\p{N}])\+(?=[0-9])")
# 1920x1080, and 10^8
_X, _POWER = re.compile("(?<=[0-9])[x*](?=[0-9])"), re.compile(r"\^(-?[0-9]+)")
# RMB100 and 100RMB
_CODES = {"rmb": "¥", "cny": "¥", "usd": "$", "eur": "€", "gbp": "£"}
_CODE_BEFORE = re.compile(rf"(?<![a-z])({'|'.join(_CODES)})\s*(?=[0-9])")
_CODE_BEHIND = re.compile(rf"(?<=[0-9万亿])\s*({'|'.join(_CODES)})(?![a-z])")
# >5%, ≥ 3: said in front of a number, unless it ends a tag or an arrow.
_COMPARED = {">=": "大于等于", "<=": "小于等于", "≥": "大于等于", "≤": "小于等于", ">": "大于", "<": "小于", "≈": "约"}
_COMPARISON = re.compile(r"(?<![a-z]{2})(?<![/=-])(>=|<=|[≥≤><≈])\s*(?=[-+±$¥€£]?[0-9])")
_EITHER_SIGN = re.compile(r"(?:\+/?-|±)\s*(?=[0-9])")
# Behind a number; g, m and l are also the names of other things.
_UNITS = {
    **{"kmh": "公里每小时", "kg": "公斤", "km": "公里", "cm": "厘米", "mm": "毫米", "ml": "毫升"},
    **{"kw": "千瓦", "w": "万"},
}
_UNIT = re.compile(rf"(?<=[零一二三四五六七八九十百千万亿两半])\s*({'|'.join(_UNITS)})(?![a-z0-9])")
_SQUARE_METRES = re.compile("(?<=[0-9])m2(?![a-z0-9])")
_PER = re.compile("(?<=[里米元块次克斤吨升])/(?=(?:小时|分钟|秒|天|日|周|月|年|人|次|吨|公斤|平方米))")
# 2024Q3, and 2024年Q3 once its number is said
_YEAR_AND_QUARTER = re.compile("(?<![0-9])((?:19|20)[0-9]{2})(?=(?:q[1-4]|h[12])(?![a-z0-9]))")
_QUARTER = re.compile("(?<=年)(?:q([一二三四])|h([一二]))(?![a-z])")

_TELEPHONE_ONE = regex.compile(r"(?<=[零一二三四五六七八九幺])幺|幺(?=[零一二三四五六七八九幺])")
# Not the weight: 二两, 半斤八两, 银两.
_TWO = regex.compile(r"两(?=[百千万亿])|(?<![一二三四五六七八九十百千万几半斤银0-9])两")
_FOLDED = re.compile("[〇幺两]")
# 百分之十到二十 leaves the second 百分之 out, 百分之负三 has the sign behind it, 百分之一百 is 100 % as well.
_SHORT_RANGE = re.compile(
    "(百分之[零一二三四五六七八九十百千点]+到)(?=[零一二三四五六七八九十])(?!一(?![零一二三四五六七八九十百点]))"
)
_HUNDRED = re.compile("百分之一百(?![零一二三四五六七八九点万亿])")
# 一到两天 and 一两天, 第三季度 and 三季度
_TENS, _MEASURES = "十百千万亿点", "天个次周人米岁倍种条位块元"
_ADJACENT = re.compile(
    "|".join(f"(?<={low})(?<![{_TENS}]{low})到(?={high}[{_MEASURES}])" for low, high in pairwise("一二三四五六七八九"))
)
_ONE_OR_TWO = re.compile(f"(?<=一)(?<![{_TENS}]一)两(?=[{_MEASURES}])")
_NTH_QUARTER = re.compile("第(?=[一二三四]季度)")
_SIGN_BEHIND = re.compile("(百分之|千分之)([正负])(?=[零一二三四五六七八九十百])")


def spell_numbers(text: str) -> str:
    """``text`` (lower case, half width) with every number as it is said.

    Text of several words without a Han character is not Mandarin, and stays as it is; 5G alone may be.
    """
    text = _CIRCLE.sub(lambda found: "〇" * len(found[0]), text.translate(_SIGNS))
    text = _CODE_BEFORE.sub(lambda code: _CODES[code[1]], text)
    if _is_foreign(text):
        return text
    if _DIGIT.search(text):
        text = _with_marks_said(_UNTIL.sub("到", _DASH.sub("-", _SPACE.sub("", text))))
        text = _span().sub(_spoken, _PLUS.sub("加", _TIMES.sub("乘", text)))
    return _PER.sub("每", text.replace("km/h", "kmh"))


def _with_marks_said(text: str) -> str:
    """Marks that are words, in text with digits; what becomes of the numbers is for others."""
    text = _CODE_BEHIND.sub(lambda code: _CURRENCIES[_CODES[code[1]]], text)
    text = _COMPARISON.sub(lambda mark: _COMPARED[mark[1]], _EITHER_SIGN.sub("正负", text))
    text = _SQUARE_METRES.sub("平方米", _POWER.sub(r"的\1次方", _X.sub("乘", text)))
    return _YEAR_AND_QUARTER.sub(r"\1年", text)


def fold_numerals(text: str) -> str:
    """``text`` (without marks) with one writing for numerals that have several; units behind them are said.

    〇 becomes 零; 两 becomes 二 except as a weight, and 幺 in digits 一: for the same word a transcript may have
    either. 百分之十到二十 becomes 百分之十到百分之二十, 百分之负三 负百分之三, 一到两天 一二天, and 第三季度 三季度.
    """
    if _FOLDED.search(text):
        text = _TELEPHONE_ONE.sub("一", _TWO.sub("二", text.replace("〇", "零")))
    if "分之" in text:
        text = _SIGN_BEHIND.sub(r"\2\1", _HUNDRED.sub("百分之百", _SHORT_RANGE.sub(r"\1百分之", text)))
    if "到" in text:
        text = _ADJACENT.sub("", text)
    text = _ONE_OR_TWO.sub("二", text)
    text = _UNIT.sub(lambda unit: _UNITS[unit[1]], text)
    if "年" in text:
        text = _QUARTER.sub(_quarter, text)
    return _NTH_QUARTER.sub("", text) if "季度" in text else text


def _quarter(found: re.Match[str]) -> str:
    return f"{found[1]}季度" if found[1] else {"一": "上半年", "二": "下半年"}[found[2]]


def _is_foreign(text: str) -> bool:
    return not _HAN.search(text) and _ANY_LETTER.search(text) is not None and len(_CHUNK.findall(text)) > 1


def _spoken(span: regex.Match[str]) -> str:
    kind = span.lastgroup
    assert kind is not None
    _, read = _KINDS[kind]
    return read(span[0].replace(",", ""))


def _one_by_one(digits: str) -> str:
    return digits.replace("-", "").replace(" ", "").translate(_ONE_BY_ONE)


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
    sign = said[0] if said[0] in "正负" else ""
    said = said.removeprefix(sign)
    return sign + {"%": "百分之", "‰": "千分之"}[text[-1]] + ("百" if said == "一百" else said)


def _range(text: str) -> str:
    """3-5, 10%-20%, and 10-20%, whose first number is a percentage as well."""
    parts = text.replace("~", "-").split("-")
    mark = parts[-1][-1] if parts[-1][-1] in "%‰" else ""
    return "到".join(_part(part if part[-1] in "%‰" else part + mark) for part in parts)


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


# Kinds of spans and their readers; the first kind that fits wins. Those in words of Latin letters are read too: 5G is
# 五g, and K12 k十二.
_KINDS: dict[str, tuple[str, Callable[[str], str]]] = {
    "date": (r"(?>[12][0-9]{3}(?P<separator>[-/.])[01]?[0-9](?P=separator)[0-3]?[0-9])", _date),
    "time": (r"(?>(?:1[0-9]|2[0-4]|0?[0-9]):[0-5][0-9](?::[0-5][0-9])?)(?![:])", _time),
    "ratio": (r"(?>[0-9]++:[0-9]++)", _joined(":", "比", _number)),
    "phone": (r"(?>0[0-9]{2,3}-[0-9]{7,8}|[48]00-[0-9]{3,4}-?[0-9]{3,4}|1[3-9][0-9](?:[ -]?[0-9]{4}){2})", _one_by_one),
    "called": (rf"(?<=(?:{_CALLED})(?:是|为|:)?)(?>[0-9]{{3,}})(?!\.[0-9])", _one_by_one),
    "hotline": (rf"(?<=[打拨报叫])(?>110|114|119|120|122|[19][0-9]{{4}})(?![0-9.分折次下斤{_COUNTED}])", _one_by_one),
    "room": (r"(?>[0-9]{3,4})(?=室|房间|号房|病房|教室)", _one_by_one),
    "version": (r"(?>[0-9]++(?:\.[0-9]++){2,})", _joined(".", "点", _number)),
    "fraction": (r"(?>[0-9]++/[0-9]++)", _fraction),
    "years": (r"(?>[12][0-9]{3}(?:[-~][12][0-9]{3})++)(?=年)", _joined("-", "到", _one_by_one)),
    "range": (rf"(?>{_PART}(?:[-~]{_PART})++)", _range),
    "percent": (rf"{_SIGNED}{_NUMBER}[%‰]", _part),
    "money": (rf"\p{{Sc}}{_NUMBER}[万亿]*+", _money),
    "degrees": (rf"{_SIGNED}{_NUMBER}°c?", _degrees),
    "year": (r"(?>[0-9]{4}|0[0-9])(?=年)|[05-9]0(?=后)|(?>[12][0-9]{3})(?=q[1-4]|h[12])", _one_by_one),
    "padded": (r"(?>0[1-9])(?=[月日号时点])", lambda text: _number(text[1:])),
    "word": (rf"(?<={_LETTER})(?>[0-9]{{3,}})(?!\.[0-9])|(?>[0-9]{{3,4}})(?=p(?!{_LETTER}))", _one_by_one),
    "digits": (rf"(?>0[0-9]++|[0-9]{{17,}}|[0-9]{{7,}}+(?<!000)(?![{_COUNTED}]))(?!\.[0-9])", _one_by_one),
    "number": (rf"{_SIGNED}{_NUMBER}", _number),
}


@cache
def _span() -> regex.Pattern[str]:
    """Compiled when the first number is read: it takes 20 ms, and a sweep with all scores stored reads none."""
    kinds = "|".join(f"(?P<{kind}>{span})" for kind, (span, _) in _KINDS.items())
    return regex.compile(rf"(?=[0-9+\-]|\p{{Sc}})(?<![0-9])(?:{kinds})(?![0-9])", regex.V1)
