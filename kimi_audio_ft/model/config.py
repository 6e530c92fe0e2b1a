"""Config of the two-stream decoder, with the field names of the published ``config.json``."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config

# `auto_map` names remote code, which this project never runs; the other keys describe the file, not the model.
_NOT_MODEL_FIELDS = ("auto_map", "model_type", "transformers_version")

PUBLISHED_7B: dict[str, Any] = {
    "vocab_size": 168448,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "eos_token_ids": None,
    "num_base_tokens": 151643,
    "num_audio_special_tokens": 512,
    "use_whisper_feature": True,
    "kimia_token_offset": 152064,
    "kimia_text_output_vocab": 152064,
    "kimia_audio_output_vocab": 16896,
    "kimia_adaptor_input_dim": 5120,
    "kimia_mimo_layers": 6,
    "kimia_mimo_transformer_from_layer_index": 21,
    "kimia_mimo_audiodelaytokens": 6,
    "kimia_media_begin": 151661,
    "kimia_media_end": 151663,
}

# Parameters of the published shards (at 2 bytes each their index's total_size), the same without the branch's 6 layers,
# norm and head, and the encoder of its whisper-large-v3.
PARAMETERS_7B = {
    "decoder": 9_766_334_464,
    "decoder without audio branch": 7_764_266_496,
    "Whisper encoder": 636_968_960,
}
# Fields that decide the shapes of the decoder's tensors, less the branch's number of layers.
_SHAPE_7B = [name for name in PUBLISHED_7B if name.endswith(("_size", "hidden_layers", "_heads", "_dim", "_index"))]


class KimiAudioConfig(Qwen2Config):
    """Qwen2 fields plus the published ``kimia_*`` ones; ``KimiAudioConfig(**json.load(config_json))`` works.

    The defaults are the published Kimi-Audio-7B (config.json logged by the published fine-tuning run), not those of
    the published config *class*, which describe no released model.
    """

    model_type = "kimi_audio"

    eos_token_ids: list[int] | None
    num_base_tokens: int
    num_audio_special_tokens: int
    use_whisper_feature: bool
    kimia_token_offset: int
    kimia_text_output_vocab: int
    kimia_audio_output_vocab: int
    kimia_adaptor_input_dim: int
    kimia_mimo_layers: int
    kimia_mimo_transformer_from_layer_index: int
    kimia_mimo_audiodelaytokens: int
    kimia_media_begin: int
    kimia_media_end: int

    def __init__(self, **fields: Any) -> None:
        fields = PUBLISHED_7B | {name: value for name, value in fields.items() if name not in _NOT_MODEL_FIELDS}
        # The published file has `rope_theta`; transformers 5 keeps it inside `rope_parameters`.
        theta = fields.pop("rope_theta", None)
        if fields.get("rope_parameters") is None:
            fields["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta or 1e6)}
        # transformers 5 calls it `dtype`, the published file `torch_dtype`.
        if "torch_dtype" in fields:
            fields.setdefault("dtype", fields.pop("torch_dtype"))
        super().__init__(**fields)
        if getattr(self, "head_dim", None) is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        self._check()

    def _check(self) -> None:
        branch, layers = self.kimia_mimo_transformer_from_layer_index, self.num_hidden_layers
        if not 0 <= branch < layers:
            raise ValueError(
                f"kimia_mimo_transformer_from_layer_index={branch}: the audio branch must leave after one of the "
                f"{layers} layers (0 to {layers - 1})"
            )
        if not 0 < self.kimia_token_offset < self.vocab_size:
            raise ValueError(
                f"kimia_token_offset={self.kimia_token_offset}: audio codes start there, so it must lie inside "
                f"vocab_size={self.vocab_size}"
            )

    @property
    def is_7b(self) -> bool:
        """Whether the decoder's tensors have the shapes of the published 7B (with or without the audio branch)."""
        return self.kimia_mimo_layers in (0, 6) and all(getattr(self, name) == PUBLISHED_7B[name] for name in _SHAPE_7B)

    @property
    def rope_theta(self) -> float:
        """Rotary base, as the published file names it."""
        parameters = dict(self.rope_parameters or {})
        return float(parameters["rope_theta"])
