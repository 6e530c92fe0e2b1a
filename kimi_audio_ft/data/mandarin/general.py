# ruff: noqa: SIM905 - a quoted list of words stays readable where a thousand quoted strings do not
"""The general domain: templates over ``general_words`` and, for a quarter of the sentences, words in random order."""

from __future__ import annotations

import random
import types

from kimi_audio_ft.data.mandarin import general_words as words
from kimi_audio_ft.data.mandarin.numbers import spoken_count, spoken_digits, spoken_integer, spoken_number
from kimi_audio_ft.data.mandarin.templates import Sentence, Slot, any_abbreviation, any_of, fill, literals, plain

FILLER_SHARE = 0.1
_RANDOM_SHARE = 0.25  # a model must listen to these, there is nothing to recite

_TEMPLATES = """{time}{person}{modal}{action} {person}{time}在{place}{action} {person}{question}{action}
{person}{question}去{place} {time}{place}的{thing}很{adjective} {time}{thing}{adjective}{tail}
{person}{opinion}{thing}很{adjective} {person}的{thing}不{adjective} {connective}{person}{modal}{action}
{connective}{thing}太{adjective}了 {time}{person}从{place}到{place} {person}把{thing}放在{place}
{person}有{counted} {time}{place}有{counted} {place}有{large}名{crowd} {person}一共花了{large}元
{time}用了{large}块钱 {person}的生日是{date} {date}{person}去{place} {year}{person}在{place}上班
{year}{date}{person}结婚 {digits}离{place}很近 {person}住在{digits} {person}{modal}用{latin}{tail}
{person}的{latin}很{adjective} {time}去{latin}见{person} {person}比{person}{adjective}
{person}和{person}{time}{action} {connective}请{person}{action} {thing}和{thing}都很{adjective}
{person}别再{action}了 {time}{person}{action}{tail} {opinion}{person}{modal}{action}
{time}{place}的{thing}多少钱 {time}这是{person}的{thing} {person}{time}没有{action}
{person}问{person}{question}{action} {time}{thing}比较{adjective} 那家{place}的{thing}{adjective}{tail}
{person}让{person}{action}""".split()


def draw(rng: random.Random) -> list[Sentence]:
    """The words of one sentence."""
    if rng.random() < _RANDOM_SHARE:
        return [_random_word(rng) for _ in range(rng.randint(3, 5))]
    return fill(rng.choice(_TEMPLATES), _SLOTS, rng)


def characters() -> set[str]:
    """Every character that a sentence of this domain can have."""
    numbers = "零一二三四五六七八九十百千万亿两点月号年0123456789."
    forms = literals([*_TEMPLATES, *words.DIGIT_FORMS])
    people = [*words.SURNAMES, *words.GIVEN_NAMES, *words.TITLES]
    return set(
        "".join([*_POOL, *words.BRIDGES, *words.MEASURED, *words.FILLERS, *people, *words.LATIN, forms, numbers])
    )


def _person(rng: random.Random) -> Sentence:
    if rng.random() < 0.7:
        return plain(rng.choice(words.PEOPLE))
    return plain(rng.choice(words.SURNAMES) + rng.choice([*words.GIVEN_NAMES, *words.TITLES]))


def _counted(rng: random.Random) -> Sentence:
    value = rng.choice([rng.randint(1, 10), rng.randint(11, 99), rng.randint(100, 999)])
    return plain(spoken_count(str(value)) + rng.choice(words.MEASURED))


def _large(rng: random.Random) -> Sentence:
    return plain(spoken_integer(rng.randint(1, 99) * 10 ** rng.randint(2, 7)))


def _date(rng: random.Random) -> Sentence:
    return plain(f"{spoken_integer(rng.randint(1, 12))}月{spoken_integer(rng.randint(1, 31))}号")


def _year(rng: random.Random) -> Sentence:
    return plain(spoken_digits(str(rng.randint(1980, 2030))) + "年")


def _digits(rng: random.Random) -> Sentence:
    """The few things that this domain writes with digits, so that the base knows them at all."""
    digits, decimal = str(rng.randint(101, 999)), f"{rng.randint(0, 19)}.{rng.randint(1, 9)}"
    form = rng.choice(words.DIGIT_FORMS)
    spoken = form.format(digits=spoken_digits(digits), decimal=spoken_number(decimal))
    return Sentence(form.format(digits=digits, decimal=decimal), spoken)


def _random_word(rng: random.Random) -> Sentence:
    kind = rng.random()
    if kind < 0.4:
        return plain(rng.choice(words.BRIDGES))
    if kind < 0.8:
        return plain(rng.choice(_POOL))
    return rng.choice([_person, _large, _digits, _SLOTS["latin"], _SLOTS["latin"]])(rng)


_PLAIN_SLOTS = types.MappingProxyType(
    {
        "time": words.TIMES,
        "place": words.PLACES,
        "action": words.ACTIONS,
        "thing": words.THINGS,
        "adjective": words.ADJECTIVES,
        "modal": words.MODALS,
        "opinion": words.OPINIONS,
        "tail": words.TAILS,
        "question": words.QUESTIONS,
        "connective": words.CONNECTIVES,
        "crowd": words.CROWDS,
    }
)
_POOL = [*(word for group in _PLAIN_SLOTS.values() for word in group), *words.PEOPLE]
_SLOTS: dict[str, Slot] = {
    **{name: any_of(group) for name, group in _PLAIN_SLOTS.items()},
    "person": _person,
    "counted": _counted,
    "large": _large,
    "date": _date,
    "year": _year,
    "digits": _digits,
    "latin": any_abbreviation(words.LATIN),
}
