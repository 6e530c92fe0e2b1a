"""Other characters and other readings of the same, which count as errors unless options of scoring say otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version

_N = "零一二三四五六七八九十百千万亿"
# 十点半, but not 半天, 半个; 十点三十, but not 十点三十个, and not 一点五, which is a decimal number
_HALF = re.compile(f"(?<=[{_N}]点)半(?![数天年个小])")
_QUARTER = re.compile(f"(?<=[{_N}]点)([一三])刻")
_O_CLOCK = re.compile(f"(?<=[{_N}]点)钟")
_MINUTES = re.compile(f"(?<=[{_N}]点)((?:[二三四五]?十[一二三四五六七八九]?))(?![{_N}点分几多个秒倍度元块米])")
_DAY = re.compile("(?<=月)([一二三]?十?[一二三四五六七八九十])号")
_BELOW_ZERO, _CELSIUS = (
    re.compile(f"零下(?=[{_N}])"),
    re.compile(f"摄氏(?=[{_N}]+(?:点[{_N}]+)?度)|(?<=[{_N}])摄氏(?=度)"),
)
_SPEED = re.compile(f"([{_N}]+(?:点[{_N}]+)?)(公里|千米|米)每(小时|分钟|秒)")
_MONEY = re.compile(f"(?<=[{_N}])(?:块钱|元?人民币)")
_BY = re.compile(f"(?<=[{_N}方])乘以(?=[{_N}负])")


def fold_readings(text: str) -> str:
    """``text`` (normalised) with one of several readings of what digits and signs write.

    10:30 十点半, 15:45 十五点三刻, 11:00 十一点钟; 8月15日 八月十五号; -5°C 零下五度; 80km/h 每小时八十公里;
    ¥100 一百块钱; 3x5 三乘以五.
    """
    if "点" in text:
        text = _QUARTER.sub(lambda found: {"一": "十五分", "三": "四十五分"}[found[1]], _HALF.sub("三十分", text))
        text = _MINUTES.sub(r"\1分", _O_CLOCK.sub("", text))
    text = _CELSIUS.sub("", _BELOW_ZERO.sub("负", _DAY.sub(r"\1日", text)))
    return _BY.sub("乘", _MONEY.sub("元", _SPEED.sub(r"每\3\1\2", text)))


def converter() -> str:
    """Name and version of the package that knows traditional characters, whose tables change: opencc 1.4.2."""
    return f"opencc {version('opencc')}"


def simplify(text: str) -> str:
    """``text`` with traditional characters as simplified ones, by the package opencc."""
    return text if text.isascii() else _simplified()(text)


@lru_cache(maxsize=1)
def _simplified() -> Callable[[str], str]:
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert
