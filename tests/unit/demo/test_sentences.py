"""The sentence generator: seeded, varied, with a spoken form for whatever is written."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from kimi_audio_ft.demo import general, meetings
from kimi_audio_ft.demo.mandarin import Sentence, join
from kimi_audio_ft.demo.sentences import generate, vocabulary
from kimi_audio_ft.errors import UserError


@pytest.mark.parametrize("domain", ["general", "target"])
def test_seed_decides_and_a_prefix_stays(domain: str) -> None:
    assert generate(domain, 50, seed=3) == generate(domain, 80, seed=3)[:50]
    assert generate(domain, 50, seed=3) != generate(domain, 50, seed=4)


@pytest.mark.parametrize("domain", [general, meetings])
def test_sentences_have_only_the_domains_characters(domain: Any) -> None:
    rng = random.Random(5)
    assert set("".join(join(domain.draw(rng)).text for _ in range(2000))) <= domain.characters()


def test_lengths(general_sentences: list[Sentence], target_sentences: list[Sentence]) -> None:
    for sentences, (low, high) in ((general_sentences, (8, 11)), (target_sentences, (9, 13))):
        lengths = [len(sentence.text) for sentence in sentences]
        assert min(lengths) >= 4 and max(lengths) <= 16
        assert low <= sum(lengths) / len(lengths) <= high


def test_sentences_are_varied_and_held_out_ones_unseen(general_sentences: list[Sentence]) -> None:
    texts = {sentence.text for sentence in general_sentences}
    assert len(texts) > 0.99 * len(general_sentences)
    held_out = [sentence.text for sentence in generate("general", 500, seed=2)]
    assert sum(text in texts for text in held_out) <= 10


def test_vocabulary_is_exactly_what_is_used(
    general_sentences: list[Sentence], target_sentences: list[Sentence]
) -> None:
    used = set("".join(sentence.text for sentence in general_sentences + target_sentences))
    assert sorted(used) == vocabulary()
    assert 500 <= len(vocabulary()) <= 700
    assert not re.search(r"[\s{}a-z]", "".join(vocabulary()))


def test_digits_and_letters_have_a_spoken_form(
    target_sentences: list[Sentence], general_sentences: list[Sentence]
) -> None:
    for sentence in target_sentences + general_sentences:
        assert not re.search(r"[0-9.]", sentence.spoken)
        if not re.search(r"[0-9]", sentence.text):
            assert sentence.spoken.replace(" ", "") == sentence.text


def test_unknown_domain_is_named() -> None:
    with pytest.raises(UserError, match="domain='poetry': must be one of general, target"):
        generate("poetry", 1, seed=1)
