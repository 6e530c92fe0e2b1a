"""General domain: everyday and office Mandarin from templates; a quarter of the sentences are random word sequences."""

from __future__ import annotations

import random

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

_WORDS = word_lists("general")
FILLERS, LATIN, DIGIT_FORMS = _WORDS["filler"], _WORDS["latin"], _WORDS["digit_form"]

FILLER_SHARE = 0.1
_RANDOM_SHARE = 0.25  # cannot be predicted from the text, so the model must use the audio


def draw(rng: random.Random) -> list[Sentence]:
    if rng.random() < _RANDOM_SHARE:
        return [_random_word(rng) for _ in range(rng.randint(3, 5))]
    return fill(rng.choice(_WORDS["template"]), _SLOTS, rng)


def characters() -> set[str]:
    numbers = "零一二三四五六七八九十百千万亿两点月号年0123456789."
    forms = literals([*_WORDS["template"], *DIGIT_FORMS])
    people = [*_WORDS["surname"], *_WORDS["given_name"], *_WORDS["title"]]
    return set("".join([*_POOL, *_WORDS["bridge"], *_WORDS["measured"], *FILLERS, *people, *LATIN, forms, numbers]))


def _person(rng: random.Random) -> Sentence:
    if rng.random() < 0.7:
        return plain(rng.choice(_WORDS["person"]))
    return plain(rng.choice(_WORDS["surname"]) + rng.choice([*_WORDS["given_name"], *_WORDS["title"]]))


def _counted(rng: random.Random) -> Sentence:
    value = rng.choice([rng.randint(1, 10), rng.randint(11, 99), rng.randint(100, 999)])
    return plain(spoken_count(str(value)) + rng.choice(_WORDS["measured"]))


def _large(rng: random.Random) -> Sentence:
    return plain(spoken_number(rng.randint(1, 99) * 10 ** rng.randint(2, 7)))


def _date(rng: random.Random) -> Sentence:
    return plain(f"{spoken_number(rng.randint(1, 12))}月{spoken_number(rng.randint(1, 31))}号")


def _year(rng: random.Random) -> Sentence:
    return plain(spoken_digits(str(rng.randint(1980, 2030))) + "年")


def _digits(rng: random.Random) -> Sentence:
    """A phrase with a number written in digits, so that the base learns them."""
    digits, decimal = str(rng.randint(101, 999)), f"{rng.randint(0, 19)}.{rng.randint(1, 9)}"
    form = rng.choice(DIGIT_FORMS)
    spoken = form.format(digits=spoken_digits(digits), decimal=spoken_number(decimal))
    return Sentence(form.format(digits=digits, decimal=decimal), spoken)


def _random_word(rng: random.Random) -> Sentence:
    kind = rng.random()
    if kind < 0.4:
        return plain(rng.choice(_WORDS["bridge"]))
    if kind < 0.8:
        return plain(rng.choice(_POOL))
    return rng.choice([_person, _large, _digits, _SLOTS["latin"], _SLOTS["latin"]])(rng)


_PLAIN = [
    "time",
    "place",
    "action",
    "thing",
    "adjective",
    "modal",
    "opinion",
    "tail",
    "question",
    "connective",
    "crowd",
]
_POOL = [word for name in (*_PLAIN, "person") for word in _WORDS[name]]
_SLOTS: dict[str, Slot] = {
    **{name: any_of(_WORDS[name]) for name in _PLAIN},
    "person": _person,
    "counted": _counted,
    "large": _large,
    "date": _date,
    "year": _year,
    "digits": _digits,
    "latin": any_abbreviation(LATIN),
}
