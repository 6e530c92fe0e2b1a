"""silero-vad as a test wants it, whether it is installed or not."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from safetensors.torch import save_file

from kimi_audio_ft.transcribe.voice import VoiceActivity


def hide_silero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package look as if it were not installed."""
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "silero-vad":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def hear_no_speech(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pauses be found by a network that hears speech nowhere, whose file is written into a folder."""
    state = VoiceActivity().state_dict()
    state["final_conv.weight"].zero_()
    state["final_conv.bias"].fill_(-10.0)
    path = folder / "deaf.safetensors"
    save_file({name.removesuffix("_l0"): values for name, values in state.items()}, path)
    monkeypatch.setattr("kimi_audio_ft.transcribe.pieces.weights_file", lambda: path)
