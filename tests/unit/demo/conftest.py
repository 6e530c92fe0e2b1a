"""Sentences of both domains, generated once."""

from __future__ import annotations

import pytest

from kimi_audio_ft.demo.mandarin import Sentence
from kimi_audio_ft.demo.sentences import generate


@pytest.fixture(scope="session")
def general_sentences() -> list[Sentence]:
    return generate("general", 8000, seed=1)


@pytest.fixture(scope="session")
def target_sentences() -> list[Sentence]:
    return generate("target", 1000, seed=1)
