"""The model's parts. A part is imported when its name is first used, so that importing this package is cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_audio_ft.model.audio_frontend import num_audio_tokens as num_audio_tokens
    from kimi_audio_ft.model.config import KimiAudioConfig as KimiAudioConfig
    from kimi_audio_ft.model.decoder import KimiAudioForCausalLM as KimiAudioForCausalLM
    from kimi_audio_ft.model.speech_tokenizer import SpeechTokenizer as SpeechTokenizer
    from kimi_audio_ft.model.text_tokenizer import TextTokenizer as TextTokenizer
    from kimi_audio_ft.model.whisper import WhisperFeatureExtractor as WhisperFeatureExtractor

_MODULE_OF = {
    "KimiAudioConfig": "config",
    "KimiAudioForCausalLM": "decoder",
    "SpeechTokenizer": "speech_tokenizer",
    "TextTokenizer": "text_tokenizer",
    "WhisperFeatureExtractor": "whisper",
    "num_audio_tokens": "audio_frontend",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
