"""Seeded Mandarin sentences of two domains: ``general`` for the tiny base, ``target`` for the demo's corpus.

Each sentence has a written and a spoken form: 7000万 (target domain) and 七千万 (general domain) are spoken alike.
"""

from __future__ import annotations

import random
import types

from kimi_audio_ft.demo import general, meetings
from kimi_audio_ft.demo.general import FILLERS
from kimi_audio_ft.demo.mandarin import Sentence, join, plain
from kimi_audio_ft.errors import ConfigError

DOMAINS = types.MappingProxyType({"general": general, "target": meetings})
_LENGTHS = (4, 16)  # limits on the characters of a transcript


def generate(domain: str, count: int, seed: int) -> list[Sentence]:
    """``count`` sentences of ``domain`` ("general" or "target"), 4 to 16 characters each, without punctuation.

    Deterministic in the seed; a smaller count gives a prefix of a larger one. General sentences never contain names,
    terms or abbreviations of the target domain. Raises ``ConfigError`` for an unknown domain.
    """
    check_domain(domain)
    rng = random.Random(f"{domain} {seed}")
    sentences: list[Sentence] = []
    while len(sentences) < count:
        sentence = _draw(domain, rng)
        fits = _LENGTHS[0] <= len(sentence.text) <= _LENGTHS[1]
        if fits and (domain == "target" or not meetings.has_own_term(sentence.text)):
            sentences.append(sentence)
    return sentences


def vocabulary() -> list[str]:
    """All characters of both domains' transcripts, sorted: Han, digits, capital letters and the dot."""
    return sorted(general.characters() | meetings.characters())


def check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ConfigError("domain", domain, f"must be one of {', '.join(DOMAINS)}")


def _draw(domain: str, rng: random.Random) -> Sentence:
    """A random sentence, sometimes with a filler between two of its words."""
    words = DOMAINS[domain].draw(rng)
    if rng.random() < DOMAINS[domain].FILLER_SHARE:
        words.insert(rng.randrange(len(words)), plain(rng.choice(FILLERS)))
    return join(words)
