"""The measured modules: the shapes of the decoder and of the two audio encoders, filled with random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kimi_audio_ft.files import read_json_object
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, SpeechTokenizer, WhisperFeatureExtractor
from kimi_audio_ft.paths import TINY_MODEL


@dataclass(frozen=True)
class Shapes:
    """Fields of the three published ``config.json`` files.

    deviation: standard deviation of random weights; times the root of the hidden size it should be near 1, or every
    layer either swamps its input or does nothing to it.
    """

    name: str
    decoder: dict[str, Any] = field(default_factory=dict)
    whisper: dict[str, Any] = field(default_factory=dict)
    speech_tokenizer: dict[str, Any] = field(default_factory=dict)
    deviation: float = 0.02


_LARGE_V3 = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}
_GLM_4_VOICE = {
    "pooling_type": "avg",
    "pooling_kernel_size": 4,
    "pooling_position": 16,
    "quantize_position": 16,
    "quantize_vocab_size": 16384,
    "quantize_causal_block_size": 200,
    "encoder_causal_convolution": True,
}
NAMES = ("7b", "tiny")


def shapes(name: str) -> Shapes:
    """Kimi-Audio-7B with its encoders (``7b``), or those of the embedded model (``tiny``)."""
    if name == "7b":  # the config's defaults are the published 7B
        return Shapes("7b", {}, _LARGE_V3, _LARGE_V3 | _GLM_4_VOICE)
    folders = (TINY_MODEL, TINY_MODEL / "whisper-large-v3", TINY_MODEL / "glm-4-voice-tokenizer")
    decoder, whisper, tokenizer = (read_json_object(folder / "config.json", "Restore it") for folder in folders)
    return Shapes("tiny", decoder, whisper, tokenizer, deviation=0.1)


def random_decoder(
    kind: Shapes, dtype: torch.dtype, device: torch.device, seed: int = 0, **changes: Any
) -> KimiAudioForCausalLM:
    """A frozen decoder without the audio branch, made on the device in one copy, as ``from_pretrained`` makes it.

    ``changes`` replace fields of the config.
    """
    config = KimiAudioConfig(**kind.decoder | changes)
    config.dtype = dtype
    config.kimia_mimo_layers = 0
    with torch.device("meta"):
        model = KimiAudioForCausalLM(config)
    del model.mimo_output, model.model.mimo_norm
    _materialise(model, dtype, device, seed, kind.deviation)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)  # empty after the meta device
    return model


def random_whisper(kind: Shapes, dtype: torch.dtype, device: torch.device, seed: int = 0) -> WhisperFeatureExtractor:
    """A frozen Whisper encoder with random weights."""
    with torch.device("meta"):
        extractor = WhisperFeatureExtractor(kind.whisper)
    _materialise(extractor, dtype, device, seed, kind.deviation)
    return extractor


def random_speech_tokenizer(kind: Shapes, device: torch.device, seed: int = 0) -> SpeechTokenizer:
    """A frozen speech tokenizer with random weights and codes, float32 as always."""
    with torch.device("meta"):
        tokenizer = SpeechTokenizer(kind.speech_tokenizer)
    _materialise(tokenizer, torch.float32, device, seed, kind.deviation)
    return tokenizer


@torch.no_grad()
def _materialise(module: nn.Module, dtype: torch.dtype, device: torch.device, seed: int, deviation: float) -> None:
    """Give a module of the meta device its memory: matrices normal, biases 0, scales of norms 1."""
    module.to(dtype).to_empty(device=device)
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, deviation, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    module.requires_grad_(False).eval()
