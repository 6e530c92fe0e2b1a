# ruff: noqa: SIM905 - a quoted list of words stays readable where a thousand quoted strings do not
"""The demo's target domain: templates over ``target_words``, numbers written with digits, more fillers."""

from __future__ import annotations

import random
import re

from kimi_audio_ft.data.mandarin import general_words
from kimi_audio_ft.data.mandarin import target_words as words
from kimi_audio_ft.data.mandarin.numbers import spoken_count, spoken_digits, spoken_integer
from kimi_audio_ft.data.mandarin.templates import Sentence, Slot, any_abbreviation, any_of, fill, literals, plain

FILLER_SHARE = 0.3

_TEMPLATES = """{name}{verb}{term} {name}说{term}{change}{amount} {term}{change}{amount} {term}是{amount}
{term}大概{multiple} {date}{verb}{term} {year}的{term}{change}{multiple} {date}{name}讲{esports}
{latin}的{term}{verb} {latin}投了{amount} {name}和{name}{verb}{term} {esports}的{term}{change}{amount}
{latin}{esports}{change}{amount} 我们对{latin}的{term}{verb} {latin}和{latin}的{esports} 请{name}{verb}{esports}
{term}和{term}要{verb} {date}{latin}付{amount} {year}{latin}有{multiple} {name}负责{latin}的{esports}
{term}这块{name}{verb} {latin}这边{term}{amount} {date}之前{name}{verb}{term} {esports}收入{amount}
{name}你{verb}{latin} {term}给到{multiple} {esports}的{latin}""".split()


def draw(rng: random.Random) -> list[Sentence]:
    """The words of one sentence."""
    return fill(rng.choice(_TEMPLATES), _SLOTS, rng)


def characters() -> set[str]:
    """Every character that a sentence of this domain can have."""
    lists = (words.NAMES, words.ROLES, words.TERMS, words.ESPORTS, words.VERBS, words.CHANGES, general_words.FILLERS)
    listed = [word for group in lists for word in group]
    counted = [*words.AMOUNT_UNITS, *words.MULTIPLES, *words.LATIN]
    return set("".join([*listed, *counted, literals(_TEMPLATES), "0123456789.月号年"]))


def has_own_term(text: str) -> bool:
    """Whether ``text`` has a name, term or abbreviation that only this domain uses."""
    return _OWN_TERM.search(text) is not None


def _name(rng: random.Random) -> Sentence:
    name = rng.choice(words.NAMES)
    return plain(name if rng.random() < 0.75 else name[0] + rng.choice(words.ROLES))


def _amount(rng: random.Random) -> Sentence:
    unit = rng.choice(words.AMOUNT_UNITS)
    if unit.startswith("万"):
        number = str(rng.randint(1, 99) * 10 ** rng.randint(1, 2))
    else:
        number = rng.choice([str(rng.randint(1, 30)), f"{rng.randint(0, 9)}.{rng.randint(1, 9)}"])
    return Sentence(number + unit, spoken_count(number) + unit)


def _multiple(rng: random.Random) -> Sentence:
    number, unit = str(rng.randint(2, 60)), rng.choice(words.MULTIPLES)
    return Sentence(number + unit, spoken_count(number) + unit)


def _date(rng: random.Random) -> Sentence:
    month, day = rng.randint(1, 12), rng.randint(1, 31)
    return Sentence(f"{month}月{day}号", f"{spoken_integer(month)}月{spoken_integer(day)}号")


def _year(rng: random.Random) -> Sentence:
    year = str(rng.randint(2015, 2026))
    return Sentence(f"{year}年", f"{spoken_digits(year)}年")


def _own_term_pattern() -> re.Pattern[str]:
    """Alternatives of all own terms; an abbreviation counts only as a whole, because GP is no part of GPS."""
    terms = [re.escape(term) for term in (*words.NAMES, *words.TERMS, *words.ESPORTS, *words.HOMOPHONES)]
    latin = [re.escape(term) for term in words.LATIN if term not in general_words.LATIN]
    return re.compile("|".join(terms) + rf"|(?<![A-Z0-9])(?:{'|'.join(latin)})(?![A-Z0-9])")


_SLOTS: dict[str, Slot] = {
    "name": _name,
    "term": any_of(words.TERMS),
    "esports": any_of(words.ESPORTS),
    "verb": any_of(words.VERBS),
    "change": any_of(words.CHANGES),
    "latin": any_abbreviation(words.LATIN),
    "amount": _amount,
    "multiple": _multiple,
    "date": _date,
    "year": _year,
}
_OWN_TERM = _own_term_pattern()
