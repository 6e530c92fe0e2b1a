"""Writes models in the published checkpoint layout: bases of experiments and tests. The package only reads them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kimi_audio_ft.files import write_json
from kimi_audio_ft.model import (
    KimiAudioConfig,
    KimiAudioForCausalLM,
    SpeechTokenizer,
    TextTokenizer,
    WhisperFeatureExtractor,
)
from kimi_audio_ft.model.audio_frontend import PREPROCESSOR_CONFIG
from kimi_audio_ft.model.checkpoint import WEIGHTS_NAME, write_shards
from kimi_audio_ft.model.text_tokenizer import RANKS_NAME, SPECIAL_TOKENS, special_token_files


def write_model(model: KimiAudioForCausalLM, folder: Path, dtype: torch.dtype, shard_bytes: int = 5 * 2**30) -> None:
    """Write the decoder: ``config.json``, shards and index."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("whisper_model.")}
    state = {key: value.detach().to(dtype).contiguous() for key, value in own.items()}

    def write(path: Path, names: list[str]) -> None:
        save_file({name: state[name] for name in names}, path, metadata={"format": "pt"})

    write_shards(folder, {key: tensor.nbytes for key, tensor in state.items()}, shard_bytes, write)
    write_json(folder / "config.json", published_config(model.model.config, dtype), indent=2)


def published_config(config: KimiAudioConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config with the published file's field names (``rope_theta``, ``torch_dtype``)."""
    fields = {k: v for k, v in config.to_diff_dict().items() if k not in ("rope_parameters", "layer_types", "dtype")}
    fields |= {"rope_theta": config.rope_theta, "torch_dtype": str(dtype).removeprefix("torch.")}
    fields |= {"architectures": ["MoonshotKimiaForCausalLM"], "model_type": config.model_type}
    return fields


def write_whisper(extractor: WhisperFeatureExtractor, folder: Path) -> None:
    """Write the Whisper encoder, without a decoder: ``model.encoder.*`` keys and both JSON files."""
    tensors = {f"model.encoder.{name}": value for name, value in extractor.encoder.state_dict().items()}
    config = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"} | extractor.config
    config["torch_dtype"] = str(extractor.encoder.conv1.weight.dtype).removeprefix("torch.")
    _write_encoder(tensors, config, folder)


def write_speech_tokenizer(tokenizer: SpeechTokenizer, folder: Path) -> None:
    """Write the speech tokenizer, without the tensors that encoding does not use."""
    config = {"architectures": ["WhisperVQEncoder"], "model_type": "whisper"} | tokenizer.config
    _write_encoder(tokenizer.state_dict(), config, folder)


def _write_encoder(tensors: Mapping[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    write_json(folder / "config.json", config, indent=2)
    fields = PREPROCESSOR_CONFIG | {"feature_size": config["num_mel_bins"]}
    write_json(folder / "preprocessor_config.json", fields, indent=2)


def write_text_tokenizer(folder: Path, ranks: dict[bytes, int]) -> TextTokenizer:
    """Write ``tiktoken.model``, ``tokenizer_config.json`` and ``special_tokens_map.json`` with all 421 specials.

    Returns the tokenizer as read back; raises DataError if that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RANKS_NAME).open("wb") as file:
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            file.write(base64.b64encode(token) + b" %d\n" % rank)
    published = {name: number for number, name in enumerate(SPECIAL_TOKENS, start=len(ranks))}
    for name, content in special_token_files(published).items():
        write_json(folder / name, content, indent=2)
    return TextTokenizer.from_pretrained(folder)
