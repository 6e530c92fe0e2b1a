"""The stand-in checkpoint has the published layout and quirks, and is read like the published one."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kimi_audio_ft.model import KimiAudioForCausalLM, SpeechTokenizer, TextTokenizer, WhisperFeatureExtractor
from kimi_audio_ft.paths import TINY_MODEL
from tests.standin import INDEX, LAST_SHARD, NEVER_OPENED, REMOTE_CODE, Standin


def test_shards_and_index_have_the_published_quirks(standin: Standin) -> None:
    index = json.loads((standin.root / INDEX).read_text())
    shards = sorted(path.name for path in standin.root.glob("*.safetensors"))
    assert set(index["weight_map"].values()) == set(shards)
    # 5 layers, 1 of the branch and the adaptor, then the odd one: as 28 + 6 + 1 and model-36-of-36.
    assert shards == [*(f"model-{number}-of-7.safetensors" for number in range(1, 8)), "model-8-of-8.safetensors"]
    last = {name for name, shard in index["weight_map"].items() if shard == "model-8-of-8.safetensors"}
    assert last == set(LAST_SHARD)
    strays = [name for name in index["weight_map"] if name.endswith("self_attn.rotary_emb.inv_freq")]
    assert len(strays) == 6 and sum(".mimo_layers." in name for name in strays) == 1
    # As 453 = 34 layers x 12 + 5 + 6 + 34 strays in the published index.
    assert len(index["weight_map"]) == 6 * 12 + 5 + 6 + 6
    tensors = {name: value for shard in shards for name, value in load_file(standin.root / shard).items()}
    assert tensors.keys() == index["weight_map"].keys()
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())


def test_other_files(standin: Standin) -> None:
    config = json.loads((standin.root / "config.json").read_text())
    assert config["architectures"] == ["MoonshotKimiaForCausalLM"] and config["model_type"] == "qwen2"
    assert config["torch_dtype"] == "bfloat16" and "eos_token_id" not in config and config["eos_token_ids"]
    for module in config["auto_map"].values():
        assert (standin.root / f"{module.split('.')[0]}.py").is_file()
    for name in REMOTE_CODE:
        with pytest.raises(RuntimeError, match="remote code was run"):
            exec((standin.root / name).read_text())
    for name in NEVER_OPENED:
        assert (standin.root / name).is_file()
    with safe_open(standin.root / "whisper-large-v3" / "model.safetensors", "pt") as file:
        parts = {re.sub(r"^(model\.\w+)\..*", r"\1", name) for name in file.keys()}  # noqa: SIM118 - no dict
    assert parts == {"model.encoder", "model.decoder"}
    assert not (standin.root / "glm-4-voice-tokenizer").exists()


@torch.no_grad()
def test_its_parts_equal_the_embedded_model(standin: Standin) -> None:
    ids = torch.arange(12).reshape(1, 12)
    ours, tiny = (KimiAudioForCausalLM.from_pretrained(folder) for folder in (standin.root, TINY_MODEL))
    assert torch.equal(ours(ids + 1470, ids).text_logits, tiny(ids + 1470, ids).text_logits)
    clip = torch.sin(torch.arange(20000) / 20)
    for part, name in ((SpeechTokenizer, "glm-4-voice-tokenizer"), (WhisperFeatureExtractor, "whisper-large-v3")):
        own = standin.speech_tokenizer if part is SpeechTokenizer else standin.root / name
        (a,), (b,) = (part.from_pretrained(folder).encode([clip]) for folder in (own, TINY_MODEL / name))
        assert torch.equal(a, b)
    text = TextTokenizer.from_pretrained(standin.root)
    assert text.special_tokens == TextTokenizer.from_pretrained(TINY_MODEL).special_tokens
    assert len(text.special_tokens) == 421
