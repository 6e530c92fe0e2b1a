"""All of an exported checkpoint that is not weights: configs, tokenizer files, and the published code for its loader.

Where the two targets differ (vLLM 0.33 as read in its source, not run):

- ``official``: ``config.json`` keeps ``auto_map`` and the base's Python files are copied beside it, unread, when the
  base has them; the published code loads models through them.
- ``vllm``: ``model_type`` is ``qwen2`` and there is no ``auto_map`` in either config. vLLM has no config class for
  Kimi-Audio: it takes the repository's remote code or this; it finds its own model class by ``architectures``.

Both need the same of the rest, so both get it: special tokens in ``tokenizer_config.json`` under
``added_tokens_decoder`` (vLLM reads them nowhere else), ``tiktoken.model``, ``whisper-large-v3/`` with
``model.encoder.*`` names, its config and preprocessor (vLLM maps no other names), and ``generation_config.json`` with
the ids that end an answer (vLLM would not stop at the text's end otherwise).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from kimi_audio_ft.files import read_json_object, save_json
from kimi_audio_ft.manifest.conversation import MESSAGE_END, TEXT_EOS
from kimi_audio_ft.model import TextTokenizer
from kimi_audio_ft.model.audio_frontend import PREPROCESSOR_CONFIG
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.model.text_tokenizer import BOS, EOS, RANKS_NAME, special_token_files

_REMEDY = "Download the base again"


def write_text_files(root: Path, folder: Path, target: str) -> None:
    """Tokenizer files, ``generation_config.json`` and, for the official loader, the base's Python files."""
    tokenizer = TextTokenizer.from_pretrained(root)
    shutil.copyfile(root / RANKS_NAME, folder / RANKS_NAME)
    for name, content in special_token_files(tokenizer.special_tokens).items():
        own = read_json_object(root / name, _REMEDY) if (root / name).is_file() else {}
        if target == "vllm" or not _code(root):
            own.pop("auto_map", None)
        save_json(own | {key: value for key, value in content.items() if not own.get(key)}, folder / name)
    if target == "official":
        for path in _code(root):
            shutil.copyfile(path, folder / path.name)
    save_json(generation_config(root, tokenizer), folder / "generation_config.json")


def generation_config(root: Path, tokenizer: TextTokenizer) -> dict[str, Any]:
    """The base's own, if it has one, with the three ids at which an answer ends."""
    path = root / "generation_config.json"
    own = read_json_object(path, _REMEDY) if path.is_file() else {}
    special = tokenizer.special_tokens
    stops = [special[name] for name in (TEXT_EOS, MESSAGE_END, EOS)]
    return own | {"bos_token_id": special[BOS], "eos_token_id": stops, "pad_token_id": tokenizer.pad_id}


def write_model_config(root: Path, folder: Path, target: str, dtype: torch.dtype) -> None:
    """``config.json`` in the base's own words; see the module's text for what a target changes."""
    fields = read_json_object(root / "config.json", _REMEDY)
    for name in ("_name_or_path", "dtype"):
        fields.pop(name, None)
    fields |= {"architectures": ["MoonshotKimiaForCausalLM"], "torch_dtype": str(dtype).removeprefix("torch.")}
    fields.setdefault("rope_theta", read_config(root).rope_theta)
    if target == "vllm":
        fields["model_type"] = "qwen2"
    if target == "vllm" or not _code(root):
        fields.pop("auto_map", None)
    save_json(fields, folder / "config.json")


def write_whisper_configs(whisper: Path, folder: Path) -> None:
    """The encoder's ``config.json`` and ``preprocessor_config.json``, which the official export forgets."""
    config = read_json_object(whisper / "config.json", _REMEDY)
    shutil.copyfile(whisper / "config.json", folder / "config.json")
    preprocessor = whisper / "preprocessor_config.json"
    if preprocessor.is_file():
        shutil.copyfile(preprocessor, folder / preprocessor.name)
    else:
        save_json(PREPROCESSOR_CONFIG | {"feature_size": config["num_mel_bins"]}, folder / preprocessor.name)


def _code(root: Path) -> list[Path]:
    """The published Python files beside the base's weights; they are copied, never run."""
    return sorted(root.glob("*.py"))
