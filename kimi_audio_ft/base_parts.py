"""Small parts of a checkpoint, read once per process while their files stay as they are: every trial asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

from kimi_audio_ft.data.manifest import TokenRange
from kimi_audio_ft.model import KimiAudioForCausalLM, TextTokenizer, WhisperFeatureExtractor
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.model.files import ModelFiles
from kimi_audio_ft.model.json_files import read_json_object
from kimi_audio_ft.model.text_tokenizer import CONFIG_NAME, RANKS_NAME

# Size and time of change (ns) of files; None where there is none.
_States = tuple[tuple[int, int] | None, ...]


def text_tokenizer(root: Path) -> TextTokenizer:
    """The text tokenizer of a checkpoint folder."""
    return _text_tokenizer(root, _states([root / RANKS_NAME, root / CONFIG_NAME]))


def token_range(root: Path) -> TokenRange:
    """The audio codes of a checkpoint folder's model."""
    return _token_range(root, _states([root / "config.json"]))


def known_layout(files: ModelFiles) -> KimiAudioForCausalLM:
    """As ``layout``, to be looked at only: others look at the same one."""
    return _known_layout(files, _states([files.root / "config.json", files.whisper / "config.json"]))


def layout(files: ModelFiles) -> KimiAudioForCausalLM:
    """The whole model, Whisper included, without its weights."""
    with torch.device("meta"):
        model = KimiAudioForCausalLM(read_config(files.root))
        config = files.whisper / "config.json"
        if config.is_file():
            model.attach_whisper(
                WhisperFeatureExtractor.from_config(read_json_object(config, "Download the checkpoint again"))
            )
    return model


def _states(paths: Iterable[Path]) -> _States:
    return tuple(_state(path) for path in paths)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # whoever reads it says so
        return None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _text_tokenizer(root: Path, states: _States) -> TextTokenizer:
    return TextTokenizer.from_pretrained(root)


@lru_cache(maxsize=2)
def _token_range(root: Path, states: _States) -> TokenRange:
    config = read_config(root)
    return TokenRange(config.kimia_token_offset, config.vocab_size)


@lru_cache(maxsize=2)
def _known_layout(files: ModelFiles, states: _States) -> KimiAudioForCausalLM:
    return layout(files)
