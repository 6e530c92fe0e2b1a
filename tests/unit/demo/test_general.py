"""The general domain: it teaches the target domain's characters and holds none of its terms."""

from __future__ import annotations

import re
from collections import Counter

from kimi_audio_ft.demo import general, meetings
from kimi_audio_ft.demo.mandarin import Sentence
from kimi_audio_ft.demo.meetings import HOMOPHONES, NAMES, TERMS


def test_digits_are_written_only_where_the_domain_writes_them(general_sentences: list[Sentence]) -> None:
    forms = [form.replace("{digits}", r"\d{3}").replace("{decimal}", r"\d+\.\d") for form in general.DIGIT_FORMS]
    written = re.compile("|".join(forms))
    with_digits = [sentence.text for sentence in general_sentences if re.search("[0-9]", sentence.text)]
    assert len(with_digits) > 100
    assert [text for text in with_digits if re.search("[0-9]", written.sub("", text))] == []


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
