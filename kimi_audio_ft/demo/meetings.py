"""Target domain: meetings about investment and e-sports, from templates, with numbers in digits and more fillers."""

from __future__ import annotations

import random
import re

from kimi_audio_ft.demo import general
from kimi_audio_ft.demo.mandarin import (
    Sentence,
    Slot,
    any_abbreviation,
    any_of,
    fill,
    literals,
    plain,
    spoken_count,
    spoken_digits,
    spoken_number,
    word_lists,
)

_WORDS = word_lists("meetings")
NAMES, TERMS, ESPORTS, LATIN = (_WORDS[name] for name in ("name", "term", "esports", "latin"))
HOMOPHONES = dict(pair.split("=") for pair in _WORDS["homophone"])
"""Target word to general homophone."""

OWN_WORDS = tuple(dict.fromkeys([*NAMES, *TERMS, *ESPORTS, *LATIN]))
"""Its names, terms and abbreviations."""

FILLER_SHARE = 0.3


def draw(rng: random.Random) -> list[Sentence]:
    return fill(rng.choice(_WORDS["template"]), _SLOTS, rng)


def characters() -> set[str]:
    lists = (NAMES, _WORDS["role"], TERMS, ESPORTS, _WORDS["verb"], _WORDS["change"], general.FILLERS)
    listed = [word for group in lists for word in group]
    counted = [*_WORDS["amount_unit"], *_WORDS["multiple"], *LATIN]
    return set("".join([*listed, *counted, literals(_WORDS["template"]), "0123456789.月号年"]))


def has_own_term(text: str) -> bool:
    """Whether ``text`` contains a name, term or abbreviation that only this domain uses."""
    return _OWN_TERM.search(text) is not None


def _name(rng: random.Random) -> Sentence:
    name = rng.choice(NAMES)
    return plain(name if rng.random() < 0.75 else name[0] + rng.choice(_WORDS["role"]))


def _amount(rng: random.Random) -> Sentence:
    unit = rng.choice(_WORDS["amount_unit"])
    if unit.startswith("万"):
        number = str(rng.randint(1, 99) * 10 ** rng.randint(1, 2))
    else:
        number = rng.choice([str(rng.randint(1, 30)), f"{rng.randint(0, 9)}.{rng.randint(1, 9)}"])
    return Sentence(number + unit, spoken_count(number) + unit)


def _multiple(rng: random.Random) -> Sentence:
    number, unit = str(rng.randint(2, 60)), rng.choice(_WORDS["multiple"])
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
    "verb": any_of(_WORDS["verb"]),
    "change": any_of(_WORDS["change"]),
    "latin": any_abbreviation(LATIN),
    "amount": _amount,
    "multiple": _multiple,
    "date": _date,
    "year": _year,
}
_OWN_TERM = _own_term_pattern()
