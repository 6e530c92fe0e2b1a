"""The sentence generator: seeded, varied, the two domains apart, every target character known from the general one."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from kimi_audio_ft.demo import general, meetings
from kimi_audio_ft.demo.mandarin import spoken_count, spoken_digits, spoken_number
from kimi_audio_ft.demo.meetings import HOMOPHONES, NAMES, TERMS
from kimi_audio_ft.demo.sentences import Sentence, generate, has_target_term, vocabulary
from kimi_audio_ft.errors import UserError


@pytest.fixture(scope="module")
def general_sentences() -> list[Sentence]:
    return generate("general", 8000, seed=1)


@pytest.fixture(scope="module")
def target_sentences() -> list[Sentence]:
    return generate("target", 1000, seed=1)


@pytest.mark.parametrize("domain", ["general", "target"])
def test_seed_decides_and_a_prefix_stays(domain: str) -> None:
    assert generate(domain, 50, seed=3) == generate(domain, 80, seed=3)[:50]
    assert generate(domain, 50, seed=3) != generate(domain, 50, seed=4)


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


def test_every_target_character_is_learned_from_general_sentences(general_sentences: list[Sentence]) -> None:
    counts = Counter("".join(sentence.text for sentence in general_sentences))
    assert {character for character in meetings.characters() if counts[character] < 5} == set()
    assert meetings.characters() <= general.characters()


def test_no_general_sentence_has_a_target_term(general_sentences: list[Sentence]) -> None:
    texts = " ".join(sentence.text for sentence in general_sentences)
    assert [term for term in (*NAMES, *TERMS, *HOMOPHONES) if term in texts] == []
    assert not re.search(r"(?<![A-Z])(LPL|LP|GP|IPO|5G|CEO)(?![A-Z])", texts)
    assert not re.search(r"[0-9][万亿月年]", texts)  # amounts and dates with digits belong to the target domain


def test_general_sentences_have_the_words_that_target_words_sound_like(general_sentences: list[Sentence]) -> None:
    texts = " ".join(sentence.text for sentence in general_sentences)
    assert [word for word in HOMOPHONES.values() if word not in texts] == []


def test_target_has_what_the_report_stumbles_over(target_sentences: list[Sentence]) -> None:
    texts = [sentence.text for sentence in target_sentences]
    for pattern in (
        r"\d0万",
        r"\d\.\d亿",
        r"\d+月\d+号",
        r"20\d\d年",
        "LPL",
        "5G",
        "二级市场",
        "[嗯呃啊]",
        "张勇",
        "吴耀飞",
    ):
        assert sum(bool(re.search(pattern, text)) for text in texts) >= 5, pattern
    assert sum(map(has_target_term, texts)) > 0.95 * len(texts)


def test_digits_and_letters_have_a_spoken_form(
    target_sentences: list[Sentence], general_sentences: list[Sentence]
) -> None:
    for sentence in target_sentences + general_sentences:
        assert not re.search(r"[0-9.]", sentence.spoken)
        if not re.search(r"[0-9]", sentence.text):
            assert sentence.spoken.replace(" ", "") == sentence.text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("0", "零"),
        ("10", "十"),
        ("12", "十二"),
        ("20", "二十"),
        ("110", "一百一十"),
        ("101", "一百零一"),
        ("235", "两百三十五"),
        ("1005", "一千零五"),
        ("2200", "两千两百"),
        ("7000", "七千"),
        ("10005", "一万零五"),
        ("20000", "两万"),
        ("120000", "十二万"),
        ("70000000", "七千万"),
        ("200000000", "两亿"),
        ("350000000", "三亿五千万"),
        ("100000001", "一亿零一"),
        ("1.3", "一点三"),
        ("0.25", "零点二五"),
    ],
)
def test_spoken_numbers(written: str, spoken: str) -> None:
    assert spoken_number(written) == spoken


def test_spoken_digits_and_counts() -> None:
    assert spoken_digits("2024") == "二零二四"
    assert (spoken_count("2"), spoken_count("12")) == ("两", "十二")


def test_unknown_domain_is_named() -> None:
    with pytest.raises(UserError, match="domain='poetry': must be one of general, target"):
        generate("poetry", 1, seed=1)
