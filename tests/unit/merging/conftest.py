"""Adapters for the stand-in checkpoint, and configs of their merges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from kimi_audio_ft.config.commands import MergeConfig
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.lora.adapter import add_adapter, save_adapter
from kimi_audio_ft.model import KimiAudioForCausalLM, WhisperFeatureExtractor
from tests.standin import Standin

MakeAdapter = Callable[..., Path]
MakeConfig = Callable[..., MergeConfig]


@pytest.fixture
def make_adapter(standin: Standin, tmp_path: Path) -> MakeAdapter:
    """Saves an adapter on the stand-in whose every tensor is random; arguments are fields of LoraConfig."""

    def make(**settings: Any) -> Path:
        model = KimiAudioForCausalLM.from_pretrained(standin.root, torch.float32)
        model.attach_whisper(WhisperFeatureExtractor.from_pretrained(standin.root / "whisper-large-v3"))
        return randomized(add_adapter(model, LoraConfig(**settings), 1), tmp_path / "adapter")

    return make


def randomized(adapted: peft.PeftModel, folder: Path) -> Path:
    """The adapter's folder, its matrices drawn anew so that B is not zero."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapted, folder)
    return folder


@pytest.fixture
def config(standin: Standin, tmp_path: Path) -> MakeConfig:
    """Makes a merge's config; the model is the stand-in."""

    def make(adapter: Path | None, **options: Any) -> MergeConfig:
        model = ModelConfig(path=str(standin.root), speech_tokenizer=str(standin.speech_tokenizer))
        options = {"out": str(tmp_path / "out"), "progress": False} | options
        return MergeConfig(adapter=adapter and str(adapter), model=model, **options)

    return make
