"""A small checkpoint in exactly the published layout of Kimi-Audio-7B-Instruct, quirks included.

What is imitated (revision 9a82a84c of the published repository):

- shards ``model-1-of-N`` ... ``model-N-of-N`` with one layer (or the adaptor) each, and a last one called
  ``model-<N+1>-of-<N+1>`` that holds exactly the embedding, both norms and both heads;
- an index whose ``total_size`` counts one stray bf16 ``self_attn.rotary_emb.inv_freq`` per layer, rounded;
- ``config.json`` with ``eos_token_ids``, ``auto_map`` naming remote code, ``torch_dtype`` and the ``kimia_*`` fields;
- remote-code files, which here raise when they are imported, and pickled ``audio_detokenizer/`` and ``vocoder/``
  weights, which here are junk that no reader may open;
- ``whisper-large-v3/`` with a whole model, ``model.decoder.*`` included;
- the speech tokenizer as a folder of its own, with the tensors that encoding does not use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from kimi_audio_ft.paths import TINY_MODEL

INDEX = "model.safetensors.index.json"
LAST_SHARD = (
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    "mimo_output.weight",
    "model.mimo_norm.weight",
)
REMOTE_CODE = ("configuration_moonshot_kimia.py", "modeling_moonshot_kimia.py", "tokenization_kimia.py")
NEVER_OPENED = ("audio_detokenizer/model.pt", "vocoder/model.pt")
AUTO_MAP = {
    "AutoConfig": "configuration_moonshot_kimia.KimiAudioConfig",
    "AutoModel": "modeling_moonshot_kimia.MoonshotKimiaModel",
    "AutoModelForCausalLM": "modeling_moonshot_kimia.MoonshotKimiaForCausalLM",
}
# Values of the published file that do not depend on the model's size.
PUBLISHED_VALUES: dict[str, Any] = {
    "architectures": ["MoonshotKimiaForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": AUTO_MAP,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "kimia_mimo_audiodelaytokens": 6,
    "max_position_embeddings": 8192,
    "num_audio_special_tokens": 512,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.1",
    "use_cache": True,
    "use_sliding_window": False,
    "use_whisper_feature": True,
}
SIZE_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "kimia_mimo_layers", "kimia_mimo_transformer_from_layer_index", "kimia_token_offset"),
    *("kimia_adaptor_input_dim", "kimia_text_output_vocab", "num_base_tokens", "kimia_media_begin"),
    *("kimia_media_end", "bos_token_id", "pad_token_id", "eos_token_ids"),
)


@dataclass(frozen=True)
class Standin:
    """Folders of a stand-in: the checkpoint, and the speech tokenizer, which is published on its own."""

    root: Path
    speech_tokenizer: Path

    @property
    def overrides(self) -> list[str]:
        """Options of a command that name it."""
        return [f"model.path={self.root}", f"model.speech_tokenizer={self.speech_tokenizer}"]


def write_standin(folder: Path) -> Standin:
    """Write ``folder/Kimi-Audio-7B-Instruct`` and ``folder/glm-4-voice-tokenizer``: the embedded model's weights."""
    root, speech_tokenizer = folder / "Kimi-Audio-7B-Instruct", folder / "glm-4-voice-tokenizer"
    root.mkdir(parents=True)
    config = _config()
    _write_json(root / "config.json", config)
    _write_decoder(root, load_file(TINY_MODEL / "model-1-of-1.safetensors"), config)
    _write_text_files(root)
    _write_whisper(root / "whisper-large-v3")
    for name in NEVER_OPENED:
        (root / name).parent.mkdir()
        (root / name).write_bytes(b"\x80\x04junk: no reader may open a pickle")
    (root / "audio_detokenizer" / "config.yaml").write_text("junk: true\n")
    _write_json(root / "vocoder" / "config.json", {"junk": True})
    _write_speech_tokenizer(speech_tokenizer)
    return Standin(root, speech_tokenizer)


def _config() -> dict[str, Any]:
    tiny = json.loads((TINY_MODEL / "config.json").read_text())
    sizes = {name: tiny[name] for name in SIZE_FIELDS}
    # As published, where it is 16384 codes + 512: more than the vocabulary has rows for.
    codes = sizes["vocab_size"] - sizes["kimia_token_offset"]
    fields = PUBLISHED_VALUES | sizes | {"kimia_audio_output_vocab": codes + 512, "model_type": "qwen2"}
    return dict(sorted(fields.items()))


def _write_decoder(root: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    inv_freq = (config["rope_theta"] ** -powers).to(torch.bfloat16)
    layers = [f"model.layers.{index}." for index in range(config["num_hidden_layers"])]
    layers += [f"model.mimo_layers.{index}." for index in range(config["kimia_mimo_layers"])]
    groups = [*layers, "model.vq_adaptor."]
    tensors = tensors | {f"{layer}self_attn.rotary_emb.inv_freq": inv_freq.clone() for layer in layers}
    weight_map: dict[str, str] = {}
    for number, prefix in enumerate(groups, start=1):
        names = [name for name in tensors if name.startswith(prefix)]
        weight_map |= dict.fromkeys(names, f"model-{number}-of-{len(groups)}.safetensors")
    weight_map |= dict.fromkeys(LAST_SHARD, f"model-{len(groups) + 1}-of-{len(groups) + 1}.safetensors")
    assert weight_map.keys() == tensors.keys()
    for shard in set(weight_map.values()):
        own = {name: tensors[name].contiguous() for name, place in weight_map.items() if place == shard}
        save_file(own, root / shard, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(root / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _write_text_files(root: Path) -> None:
    for name in ("tiktoken.model", "special_tokens_map.json"):
        shutil.copy(TINY_MODEL / name, root / name)
    tokenizer = json.loads((TINY_MODEL / "tokenizer_config.json").read_text())
    auto_map = {"AutoTokenizer": ["tokenization_kimia.TikTokenTokenizer", None]}
    _write_json(root / "tokenizer_config.json", tokenizer | {"auto_map": auto_map})
    for name in REMOTE_CODE:
        (root / name).write_text(f'raise RuntimeError("remote code was run: {name}")\n')
    (root / "README.md").write_text("# Stand-in\n")


def _write_whisper(folder: Path) -> None:
    source = TINY_MODEL / "whisper-large-v3"
    config = json.loads((source / "config.json").read_text())
    decoder = {
        "decoder_attention_heads": config["encoder_attention_heads"],
        "decoder_ffn_dim": 64,
        "decoder_layers": 1,
        "max_target_positions": 448,
        "vocab_size": 60,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    }
    config |= decoder | {"torch_dtype": "float16", "transformers_version": "4.44.1"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unused = WhisperDecoder(WhisperConfig.from_dict(config)).state_dict()
    tensors = load_file(source / "model.safetensors")
    tensors |= {f"model.decoder.{name}": value for name, value in unused.items()}
    folder.mkdir()
    _write_json(folder / "config.json", config)
    shutil.copy(source / "preprocessor_config.json", folder / "preprocessor_config.json")
    stored = {name: value.half().contiguous() for name, value in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def _write_speech_tokenizer(folder: Path) -> None:
    source = TINY_MODEL / "glm-4-voice-tokenizer"
    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    width, codes = config["d_model"], config["quantize_vocab_size"]
    positions = config["max_source_positions"] // config["pooling_kernel_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        unused = {
            "embed_positions2.weight": torch.randn(positions, width),
            "ema_count": torch.rand(codes),
            "ema_weight": torch.randn(codes, width),
        }
    tensors = load_file(source / "model.safetensors") | unused
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
