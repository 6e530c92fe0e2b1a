"""Names that scripts and checks outside the package import, and commands that people type."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec

import pytest

from kimi_audio_ft.scoring import score

NAMES = {
    "kimi_audio_ft.model": (
        *("KimiAudioConfig", "KimiAudioForCausalLM", "WhisperFeatureExtractor", "SpeechTokenizer"),
        *("TextTokenizer", "num_audio_tokens"),
    ),
    "kimi_audio_ft.data": ("layout_conversation",),
    "kimi_audio_ft.scoring": ("score",),
}
COMMANDS = (
    *(
        "prepare",
        "tokenize",
        "train",
        "evaluate",
        "merge",
        "export_adapter",
        "transcribe",
        "combine",
        "serve",
        "store",
        "engine",
    ),
)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_a_public_name_is_importable(module: str, name: str) -> None:
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module(name: str) -> None:
    module = f"kimi_audio_ft.{name}"
    assert find_spec(module) is not None
    if find_spec(module).submodule_search_locations is not None:  # type: ignore[union-attr]
        assert find_spec(f"{module}.__main__") is not None


def test_methods_of_the_models() -> None:
    model = import_module("kimi_audio_ft.model")
    for name in ("KimiAudioForCausalLM", "WhisperFeatureExtractor", "SpeechTokenizer", "TextTokenizer"):
        assert callable(getattr(model, name).from_pretrained)
    for name in ("WhisperFeatureExtractor", "SpeechTokenizer", "TextTokenizer"):
        assert callable(getattr(model, name).encode)
    assert callable(model.TextTokenizer.decode)
    forward = inspect.signature(model.KimiAudioForCausalLM.forward).parameters
    assert [name for name in forward if name != "self"][:8] == [
        *("input_ids", "text_input_ids", "is_continuous_mask", "audio_features"),
        *("attention_mask", "past_key_values", "use_cache", "audio_branch"),
    ]


def test_the_layout_of_a_conversation_has_the_lists_of_the_published_code() -> None:
    layout = import_module("kimi_audio_ft.data").layout_conversation
    assert [*inspect.signature(layout).parameters] == ["conversation", "tokenizer", "task_type", "for_generation"]
    fields = inspect.get_annotations(import_module("kimi_audio_ft.manifest.conversation").Layout)
    assert {"audio_ids", "text_ids", "is_continuous_mask", "audio_loss_mask", "text_loss_mask"} <= set(fields)


def test_the_fields_of_scores() -> None:
    found = score({"a": "你好", "b": "再见"}, {"a": "你好", "b": "再"})
    assert {
        *("cer", "wer", "mer", "exact_match", "substitutions", "deletions", "insertions"),
        *("num_references", "num_reference_chars"),
    } <= set(found)
    with pytest.raises(ValueError, match="c"):
        score({"a": "你好"}, {"c": "你好"})
