"""The text path as a stock Qwen2, and the front end that makes its prompt embeddings.

Every position of the text path is the embedding of one id plus the blank token's, or that of an audio code with its
feature. With the blank's row added to the whole table, the main layers are an unchanged ``Qwen2ForCausalLM``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from kimi_audio_ft.files import write_json
from kimi_audio_ft.manifest.conversation import TEXT_EOS
from kimi_audio_ft.merging.prompt_embeddings import ADAPTOR_PREFIX, AUDIO_ROWS, BLANK_ROW, TABLE
from kimi_audio_ft.merging.weights import StoredTensor
from kimi_audio_ft.model import KimiAudioConfig, TextTokenizer
from kimi_audio_ft.model.checkpoint import is_branch

# Fields of config.json that Qwen2 has under the same names and with the same meaning.
_SHARED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "hidden_act"),
)


@dataclass(frozen=True)
class BlankAdded:
    """Adds the blank token's row ``[1, D]`` to rows of the embedding table, in the row's own number format."""

    blank: Tensor

    @classmethod
    def of(cls, table: StoredTensor, blank: int) -> BlankAdded:
        with safe_open(table.path, framework="pt") as file:
            row = file.get_slice(table.stored_name)[blank : blank + 1]
        return cls(row.to(table.info.dtype))

    def merged(self, rows: Tensor, start: int) -> Tensor:
        """The sum that the two-stream model computes at every position, rounded as there."""
        return rows.to(self.blank.dtype) + self.blank


def text_path(decoder: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors that ``Qwen2ForCausalLM`` has, which have its names already."""
    return {
        name: source for name, source in decoder.items() if not is_branch(name) and not name.startswith(ADAPTOR_PREFIX)
    }


def front_end(decoder: Mapping[str, StoredTensor], config: KimiAudioConfig, blank: int) -> dict[str, StoredTensor]:
    """The adaptor, and rows of the table as they are: those of the audio codes and the blank's."""
    table, first = decoder[TABLE], config.kimia_token_offset

    def rows(start: int, count: int) -> StoredTensor:
        info = replace(table.info, shape=(count, *table.info.shape[1:]))
        return replace(table, info=info, first_row=start)

    adaptor = {name: source for name, source in decoder.items() if name.startswith(ADAPTOR_PREFIX)}
    return adaptor | {AUDIO_ROWS: rows(first, config.vocab_size - first), BLANK_ROW: rows(blank, 1)}


def write_qwen2_configs(config: KimiAudioConfig, tokenizer: TextTokenizer, folder: Path, dtype: torch.dtype) -> None:
    """``config.json`` of a plain Qwen2, and ``generation_config.json``; an answer ends with the text stream's end."""
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.special_tokens[TEXT_EOS]}
    fields = {name: getattr(config, name) for name in _SHARED} | ids
    fields |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    fields |= {"tie_word_embeddings": False, "use_sliding_window": False}
    rope = dict(config.rope_parameters or {})
    if rope.get("rope_type", "default") != "default":
        fields["rope_parameters"] = rope
    write_json(folder / "config.json", fields | {"torch_dtype": str(dtype).removeprefix("torch.")}, indent=2)
    write_json(folder / "generation_config.json", ids | {"pad_token_id": tokenizer.pad_id}, indent=2)
