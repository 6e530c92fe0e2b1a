"""The model: decoder, Whisper features, speech and text tokenizers, checkpoints.

Names are loaded on first use, so that importing the package costs no torch import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "KimiAudioConfig": "config",
    "KimiAudioForCausalLM": "decoder",
    "WhisperFeatureExtractor": "whisper",
    "SpeechTokenizer": "speech_tokenizer",
    "TextTokenizer": "text_tokenizer",
    "num_audio_tokens": "audio_frontend",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
