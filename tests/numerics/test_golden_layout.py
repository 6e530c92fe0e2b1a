"""Conversation layout against the published prompt manager and dataset (shared/golden, section 3)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_audio_ft.manifest.conversation import layout_conversation

NAMES = ["asr_text_audio", "audio_only", "two_audios", "multi_turn", "assistant_audio", "text_only", "audio_then_text"]


class ToyTokenizer:
    def __init__(self, description: dict) -> None:
        self.characters = description["char_to_id"]
        self.special_tokens = description["special_tokens"]
        self.pad_id = description["pad_id"]

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        return [self.characters[character] for character in text]


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict:
    return json.loads((shared_dir / "golden" / "layout.json").read_text())


def shifted(values: list, last: int | bool) -> list:
    return [*values[1:], last]


def test_every_conversation_is_covered(golden: dict) -> None:
    assert [c["name"] for c in golden["conversations"]] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_training_layout(golden: dict, name: str) -> None:
    case = next(c for c in golden["conversations"] if c["name"] == name)
    tokenizer, expected = ToyTokenizer(golden["tokenizer"]), case["train"]
    layout = layout_conversation(case["conversation"], tokenizer, case["task_type"])
    for key in ("audio_ids", "text_ids", "is_continuous_mask", "audio_loss_mask", "text_loss_mask"):
        assert list(map(int, getattr(layout, key))) == expected[key], key
    assert shifted(layout.audio_ids, tokenizer.pad_id) == expected["shifted_audio_labels"]
    assert shifted(layout.text_ids, tokenizer.pad_id) == expected["shifted_text_labels"]
    assert list(map(int, shifted(layout.audio_loss_mask, False))) == expected["shifted_audio_loss_mask"]
    assert list(map(int, shifted(layout.text_loss_mask, False))) == expected["shifted_text_loss_mask"]


@pytest.mark.parametrize("name", NAMES)
def test_generation_prompt(golden: dict, name: str) -> None:
    case = next(c for c in golden["conversations"] if c["name"] == name)
    layout = layout_conversation(
        case["conversation"], ToyTokenizer(golden["tokenizer"]), case["task_type"], for_generation=True
    )
    for key in ("audio_ids", "text_ids", "is_continuous_mask"):
        assert list(map(int, getattr(layout, key))) == case["prompt"][key], key
