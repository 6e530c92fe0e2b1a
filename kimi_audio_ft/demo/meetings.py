# ruff: noqa: SIM905 - a quoted list of words stays readable where a thousand quoted strings do not
"""Target domain: meetings about investment and e-sports, from templates, with numbers in digits and more fillers."""

from __future__ import annotations

import random
import re

from kimi_audio_ft.demo import general
from kimi_audio_ft.demo.mandarin import Sentence, Slot, any_abbreviation, any_of, fill, literals, plain
from kimi_audio_ft.demo.numbers import spoken_count, spoken_digits, spoken_number

# Target word -> general homophone (equal eSpeak phonemes, including tones).
HOMOPHONES = dict(
    pair.split("=")
    for pair in """程功=成功 石坚=时间 童世=同事 江来=将来 文桦=文化 魏莱=未来 程旭=程序 方岸=方案 公示=公式 形势=形式
    战队=站队 期终=期中""".split()
)

NAMES = "张勇 吴耀飞 程功 石坚 童世 江来 文桦 魏莱 程旭 方岸 沈嘉睿 韩雨泽 李浩宇 林志明".split()
ROLES = "总 董 老师 经理".split()

TERMS = """二级市场 一级市场 基金 估值 资产负债表 投资成本 现金流 净利润 尽调报告 基金份额 回购条款 股权
对赌协议 投委会 市盈率 退出渠道 股价 实控人 期终分红 公示期 形势""".split()

ESPORTS = "战队 赛事版权 春季赛 直播平台 俱乐部 席位费 主场 转会费 奖金池 赞助商 选手合同 流量".split()

LATIN = "LP GP LPL KPL IPO PE VC CEO MVP EDG RNG AI 5G A轮 B轮 APP OK".split()

VERBS = "看一下 算一下 复盘 对一下 讲一下 跟进 确认 调整 评估".split()
CHANGES = "涨了 增加了 减少了 调到 做到 超过 不到 大概是".split()
AMOUNT_UNITS = "万 亿 亿美元 万美元 万元 个亿".split()
MULTIPLES = "倍 个点 家".split()


FILLER_SHARE = 0.3

_TEMPLATES = """{name}{verb}{term} {name}说{term}{change}{amount} {term}{change}{amount} {term}是{amount}
{term}大概{multiple} {date}{verb}{term} {year}的{term}{change}{multiple} {date}{name}讲{esports}
{latin}的{term}{verb} {latin}投了{amount} {name}和{name}{verb}{term} {esports}的{term}{change}{amount}
{latin}{esports}{change}{amount} 我们对{latin}的{term}{verb} {latin}和{latin}的{esports} 请{name}{verb}{esports}
{term}和{term}要{verb} {date}{latin}付{amount} {year}{latin}有{multiple} {name}负责{latin}的{esports}
{term}这块{name}{verb} {latin}这边{term}{amount} {date}之前{name}{verb}{term} {esports}收入{amount}
{name}你{verb}{latin} {term}给到{multiple} {esports}的{latin}""".split()


def draw(rng: random.Random) -> list[Sentence]:
    return fill(rng.choice(_TEMPLATES), _SLOTS, rng)


def characters() -> set[str]:
    lists = (NAMES, ROLES, TERMS, ESPORTS, VERBS, CHANGES, general.FILLERS)
    listed = [word for group in lists for word in group]
    counted = [*AMOUNT_UNITS, *MULTIPLES, *LATIN]
    return set("".join([*listed, *counted, literals(_TEMPLATES), "0123456789.月号年"]))


def has_own_term(text: str) -> bool:
    """Whether ``text`` contains a name, term or abbreviation that only this domain uses."""
    return _OWN_TERM.search(text) is not None


def _name(rng: random.Random) -> Sentence:
    name = rng.choice(NAMES)
    return plain(name if rng.random() < 0.75 else name[0] + rng.choice(ROLES))


def _amount(rng: random.Random) -> Sentence:
    unit = rng.choice(AMOUNT_UNITS)
    if unit.startswith("万"):
        number = str(rng.randint(1, 99) * 10 ** rng.randint(1, 2))
    else:
        number = rng.choice([str(rng.randint(1, 30)), f"{rng.randint(0, 9)}.{rng.randint(1, 9)}"])
    return Sentence(number + unit, spoken_count(number) + unit)


def _multiple(rng: random.Random) -> Sentence:
    number, unit = str(rng.randint(2, 60)), rng.choice(MULTIPLES)
    return Sentence(number + unit, spoken_count(number) + unit)


def _date(rng: random.Random) -> Sentence:
    month, day = rng.randint(1, 12), rng.randint(1, 31)
    return Sentence(f"{month}月{day}号", f"{spoken_number(month)}月{spoken_number(day)}号")


def _year(rng: random.Random) -> Sentence:
    year = str(rng.randint(2015, 2026))
    return Sentence(f"{year}年", f"{spoken_digits(year)}年")


def _own_term_pattern() -> re.Pattern[str]:
    """Alternation of all own terms; abbreviations match as a whole only, so that GP does not match in GPS."""
    terms = [re.escape(term) for term in (*NAMES, *TERMS, *ESPORTS, *HOMOPHONES)]
    latin = [re.escape(term) for term in LATIN if term not in general.LATIN]
    return re.compile("|".join(terms) + rf"|(?<![A-Z0-9])(?:{'|'.join(latin)})(?![A-Z0-9])")


_SLOTS: dict[str, Slot] = {
    "name": _name,
    "term": any_of(TERMS),
    "esports": any_of(ESPORTS),
    "verb": any_of(VERBS),
    "change": any_of(CHANGES),
    "latin": any_abbreviation(LATIN),
    "amount": _amount,
    "multiple": _multiple,
    "date": _date,
    "year": _year,
}
_OWN_TERM = _own_term_pattern()
