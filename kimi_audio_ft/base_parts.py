"""Small parts of a checkpoint, read once per process while their files stay as they are: every trial asks for them.

Only ``layout`` needs PyTorch. What a sweep's planning asks of the layout, the names of the linears, is kept in the
store, so that a sweep with nothing left to do never imports it: that takes longer than everything else it does.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_audio_ft.data.manifest import TokenRange
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import read_json_object, write_json
from kimi_audio_ft.model.files import ModelFiles
from kimi_audio_ft.model.text_tokenizer import CONFIG_NAME, RANKS_NAME, TextTokenizer
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.signature import digest_of

if TYPE_CHECKING:
    from kimi_audio_ft.model import KimiAudioForCausalLM

_REMEDY = "Set model.path to a Kimi-Audio checkpoint"
# Raise it when the model's modules are named in another way.
_LAYOUT_VERSION = 1

# Size and time of change (ns) of files; None where there is none.
_States = tuple[tuple[int, int] | None, ...]


def text_tokenizer(root: Path) -> TextTokenizer:
    """The text tokenizer of a checkpoint folder."""
    return _text_tokenizer(root, _states([root / RANKS_NAME, root / CONFIG_NAME]))


def token_range(root: Path) -> TokenRange:
    """The audio codes of a checkpoint folder's model."""
    return _token_range(root, _states([root / "config.json"]))


def linear_names(files: ModelFiles) -> tuple[str, ...]:
    """Full paths of the linears of the whole model, Whisper included."""
    return _linear_names(files, _states([files.root / "config.json", files.whisper / "config.json"]))


def layout(files: ModelFiles) -> KimiAudioForCausalLM:
    """The whole model, Whisper included, without its weights."""
    import torch

    from kimi_audio_ft.model import KimiAudioForCausalLM, WhisperFeatureExtractor
    from kimi_audio_ft.model.checkpoint import read_config

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
    config = read_json_object(root / "config.json", _REMEDY)
    first, size = config.get("kimia_token_offset"), config.get("vocab_size")
    if not isinstance(first, int) or not isinstance(size, int):
        from kimi_audio_ft.model.checkpoint import read_config

        read = read_config(root)  # says what is wrong, or knows the published default
        first, size = read.kimia_token_offset, read.vocab_size
    return TokenRange(first, size)


@lru_cache(maxsize=2)
def _linear_names(files: ModelFiles, states: _States) -> tuple[str, ...]:
    configs = [path for path in (files.root / "config.json", files.whisper / "config.json") if path.is_file()]
    facts = [_LAYOUT_VERSION, version("transformers"), *map(file_digest, configs)]
    known = store_root() / "layouts" / f"{digest_of(facts)}.json"
    if known.is_file():
        return tuple(read_json_object(known, "Remove it; it is made again")["linears"])
    from kimi_audio_ft.lora.targets import linears_of

    names = linears_of(layout(files))
    with suppress(UserError, OSError):  # it only saves time
        write_json(known, {"linears": names})
    return tuple(names)
