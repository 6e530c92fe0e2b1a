"""Signatures of the encoders, on which codes and features depend; read from their files without PyTorch."""

from __future__ import annotations

from typing import Any

from kimi_audio_ft.files import read_json_object
from kimi_audio_ft.model.files import ModelFiles, require_folder
from kimi_audio_ft.store.digests import folder_digest
from kimi_audio_ft.store.signature import feature_signature


def encoder_identity(files: ModelFiles, features: bool) -> tuple[dict[str, Any], int]:
    """Digests of the encoders' files, and the width of a feature row (0 without ``features``)."""
    tokenizer = require_folder("model.speech_tokenizer", files.speech_tokenizer, "the GLM-4 voice tokenizer")
    identity = {"speech_tokenizer": folder_digest(tokenizer)}
    if not features:
        return identity, 0
    whisper = require_folder("model.path", files.whisper, "the checkpoint's whisper-large-v3")
    width = read_json_object(whisper / "config.json", "Download the checkpoint again")["d_model"]
    return identity | {"whisper": folder_digest(whisper)}, 4 * width


def features_of(files: ModelFiles, dtype: str) -> str:
    """Name of the feature store of a checkpoint's encoders. dtype: float32 or bfloat16."""
    return feature_signature(*encoder_identity(files, features=True), f"torch.{dtype}")
