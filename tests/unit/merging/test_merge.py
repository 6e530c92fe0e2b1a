"""The merged folder: what is in it, what it computes, and that it is whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.lora.adapter import load_adapter
from kimi_audio_ft.merging.merge import merge
from kimi_audio_ft.merging.prompt_embeddings import PromptEmbeddings
from kimi_audio_ft.model import KimiAudioForCausalLM, TextTokenizer, WhisperFeatureExtractor
from kimi_audio_ft.model.checkpoint import file_of_tensor
from tests.standin import Standin
from tests.unit.merging.conftest import MakeAdapter, MakeConfig

INDEX = "model.safetensors.index.json"


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's decoder, by the index."""
    shards = {path: load_file(path) for path in set(file_of_tensor(folder).values())}
    return {name: shards[path][name] for name, path in file_of_tensor(folder).items()}


def json_of(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    ids = torch.arange(40).reshape(1, 40)
    return model(ids + 1470, ids + 20, audio_branch=False).text_logits


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
def test_every_number_is_rounded_once(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, dora: bool
) -> None:
    """Each is bf16 of the float32 merge; rounding the update first, as the fork's merge does, gives others."""
    adapter = make_adapter(r=4, use_dora=dora)
    merged = tensors(merge(config(adapter)))
    exact = load_adapter(KimiAudioForCausalLM.from_pretrained(standin.root), adapter).merge_and_unload().state_dict()
    base = tensors(standin.root)
    assert merged.keys() == {name for name in base if not name.endswith("inv_freq")} == exact.keys()
    assert all(torch.equal(merged[name], exact[name].bfloat16()) for name in merged)
    untouched = [name for name in merged if torch.equal(merged[name], base[name])]
    assert "model.embed_tokens.weight" in untouched and "mimo_output.weight" in untouched
    assert len(untouched) == len(merged) - 35
    name = "model.layers.0.mlp.up_proj.weight"
    twice = base[name] + (exact[name] - base[name].float()).bfloat16()  # the update rounded too, as by others
    assert not torch.equal(twice, merged[name])


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.01), ("float32", 1e-5)])
def test_logits_equal_base_and_adapter(
    standin: Standin,
    make_adapter: MakeAdapter,
    config: MakeConfig,
    dtype: str,
    tolerance: float,
) -> None:
    """Relative difference: 1 % with bf16 weights, 1e-5 with float32 ones; the adapter itself is more than 5 %."""
    adapter = make_adapter()
    out = merge(config(adapter, dtype=dtype))
    merged = logits(KimiAudioForCausalLM.from_pretrained(out))
    base = KimiAudioForCausalLM.from_pretrained(standin.root)
    plain, wanted = logits(base), logits(load_adapter(base, adapter))

    def distance(other: Tensor) -> float:
        return float((other - wanted).norm() / wanted.norm())

    assert distance(merged) < tolerance < 0.05 < distance(plain)


def test_layout(standin: Standin, make_adapter: MakeAdapter, config: MakeConfig) -> None:
    out = merge(config(make_adapter(), shard_gb=0.001))
    index = json.loads((out / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{number}-of-{len(shards)}.safetensors" for number in range(1, len(shards) + 1)]
    assert len(shards) > 3
    assert all((out / shard).stat().st_size < 1_010_000 for shard in shards)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors(out).values())
    assert {value.dtype for value in tensors(out).values()} == {torch.bfloat16}
    for name in ("config.json", "tokenizer_config.json"):
        assert json_of(out, name) == json_of(standin.root, name)
    special = TextTokenizer.from_pretrained(standin.root).special_tokens
    stops = [special[name] for name in ("<|im_kimia_text_eos|>", "<|im_msg_end|>", "[EOS]")]
    expected = {"bos_token_id": special["[BOS]"], "eos_token_id": stops, "pad_token_id": max(special.values())}
    assert json_of(out, "generation_config.json") == expected
    for name in ("tiktoken.model", "special_tokens_map.json", "modeling_moonshot_kimia.py"):
        assert (out / name).read_bytes() == (standin.root / name).read_bytes()
    assert TextTokenizer.from_pretrained(out).special_tokens == special
    whisper = load_file(out / "whisper-large-v3" / "model.safetensors")
    own = load_file(standin.root / "whisper-large-v3" / "model.safetensors")
    assert whisper.keys() == own.keys() and all(torch.equal(whisper[name], own[name]) for name in own)
    assert {path.name for path in out.iterdir()} == {
        *shards,
        *(INDEX, "config.json", "generation_config.json", "merge.json", "tiktoken.model", "tokenizer_config.json"),
        *("special_tokens_map.json", "whisper-large-v3", "configuration_moonshot_kimia.py"),
        *("modeling_moonshot_kimia.py", "tokenization_kimia.py"),
    }
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in out.glob("*.safetensors"))


@torch.no_grad()
def test_a_stock_qwen2_has_the_logits_of_the_two_streams_bit_for_bit(standin: Standin, config: MakeConfig) -> None:
    """As for vLLM: the base alone, in the published dtype and in float32, with a conversation of text and audio."""
    from transformers import Qwen2ForCausalLM

    special, blank = TextTokenizer.from_pretrained(standin.root).special_tokens, "<|im_kimia_text_blank|>"
    codes = torch.arange(3) + KimiAudioForCausalLM.from_pretrained(standin.root).config.kimia_token_offset
    audio, text = torch.full((12,), special[blank]), torch.full((12,), special[blank])
    text[:4], text[9:], audio[8] = torch.arange(4), torch.arange(3) + 7, special["<|im_media_end|>"]
    audio[4], audio[5:8] = special["<|im_media_begin|>"], codes
    is_audio = torch.isin(torch.arange(12), torch.arange(5, 8))
    for dtype in (torch.float32, torch.bfloat16):
        out = merge(config(None, target="qwen2", dtype=str(dtype).removeprefix("torch."), overwrite=True))
        model = KimiAudioForCausalLM.from_pretrained(standin.root, dtype)
        model.set_plain(decoder=True, whisper=True)  # our own layers round otherwise
        features = torch.randn(3, model.config.kimia_adaptor_input_dim, generator=torch.Generator().manual_seed(1))
        embeddings = PromptEmbeddings.from_pretrained(out, dtype)(audio, text, is_audio, [features])
        found = Qwen2ForCausalLM.from_pretrained(out, dtype=dtype)(inputs_embeds=embeddings[None]).logits
        expected = model(audio[None], text[None], is_audio[None], [features], audio_branch=False).text_logits
        assert found.dtype == dtype and torch.equal(found, expected)
    with pytest.raises(
        UserError, match=r"position 4: has audio id \d+ and text id 0; one of the two must be the blank"
    ):
        PromptEmbeddings.from_pretrained(out)(audio, text.clone().fill_(0), is_audio, [features])


def test_a_qwen2_folder_with_an_adapter_of_all_parts(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adaptor and encoder are changed in the front end; the branch, on which no text depends, is named and left out."""
    targets = [r"model\.(mimo_)?layers\.0\.mlp\.up_proj", r"model\.vq_adaptor\.layers\.0", r"whisper_model\..*\.q_proj"]
    out = merge(config(make_adapter(target_modules=targets), target="qwen2", shard_gb=0.001, verify="true"))
    assert "without 1 changes of the audio branch" in capsys.readouterr().out
    assert "mimo" not in "".join(tensors(out)) and len(set(file_of_tensor(out).values())) > 2
    front, base = out / "front_end", tensors(standin.root)
    own = load_file(front / "model.safetensors")
    assert not torch.equal(own["model.vq_adaptor.layers.0.weight"], base["model.vq_adaptor.layers.0.weight"])
    special = TextTokenizer.from_pretrained(front).special_tokens
    assert torch.equal(
        own["blank_embedding.weight"][0], base["model.embed_tokens.weight"][special["<|im_kimia_text_blank|>"]]
    )
    assert {path.name for path in front.iterdir()} >= {"config.json", "tiktoken.model", "whisper-large-v3"}
    assert not list(out.rglob("*.py")) and "auto_map" not in json_of(front, "config.json")
    stop = special["<|im_kimia_text_eos|>"]
    assert json_of(out, "config.json")["eos_token_id"] == json_of(out, "generation_config.json")["eos_token_id"] == stop


def test_what_the_base_lacks_is_made(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, tmp_path: Path
) -> None:
    """A base as the official export leaves it: no specials, no preprocessor, Whisper keys without their prefix."""
    from safetensors.torch import save_file

    root = tmp_path / "bare"
    shutil.copytree(standin.root, root)
    for path in (*root.glob("*.py"), root / "tokenizer_config.json", root / "special_tokens_map.json"):
        path.unlink()
    whisper = root / "whisper-large-v3"
    (whisper / "preprocessor_config.json").unlink()
    renamed = {name.removeprefix("model."): value for name, value in load_file(whisper / "model.safetensors").items()}
    save_file(renamed, whisper / "model.safetensors")
    settings = config(make_adapter())
    settings.model.path = str(root)
    out = merge(settings)
    assert "auto_map" not in json_of(out, "config.json")
    assert len(json_of(out, "tokenizer_config.json")["added_tokens_decoder"]) == 421
    assert json_of(out, "special_tokens_map.json")["eos_token"] == "[EOS]"
    assert all(name.startswith("model.") for name in load_file(out / "whisper-large-v3" / "model.safetensors"))
    preprocessor = json_of(out / "whisper-large-v3", "preprocessor_config.json")
    assert preprocessor["feature_size"] == 128


def test_code_that_the_base_has_but_does_not_name_is_named(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a copy of the embedded base with the published files beside it: the client asks for their names."""
    root = tmp_path / "unnamed"
    shutil.copytree(standin.root, root)
    for name in ("config.json", "tokenizer_config.json"):
        (root / name).write_text(json.dumps({k: v for k, v in json_of(root, name).items() if k != "auto_map"}))
    settings = config(make_adapter(), verify="false")
    settings.model.path = str(root)
    out = merge(settings)
    for name in ("config.json", "tokenizer_config.json"):
        assert json_of(out, name)["auto_map"] == json_of(standin.root, name)["auto_map"]
    assert "auto_map" not in json_of(out, "special_tokens_map.json")
    assert "copy" not in capsys.readouterr().out
    (root / "tokenization_kimia.py").unlink()
    settings.overwrite = True
    assert "auto_map" not in json_of(merge(settings), "config.json")
    assert "copy tokenization_kimia.py of" in capsys.readouterr().out


def test_an_adapter_of_whisper_and_branch(standin: Standin, make_adapter: MakeAdapter, config: MakeConfig) -> None:
    adapter = make_adapter(target_modules="report")
    out = merge(config(adapter, verify="true"))
    model = KimiAudioForCausalLM.from_pretrained(standin.root)
    model.attach_whisper(WhisperFeatureExtractor.from_pretrained(standin.root / "whisper-large-v3"))
    exact = load_adapter(model, adapter).merge_and_unload()
    own = load_file(out / "whisper-large-v3" / "model.safetensors")
    base = load_file(standin.root / "whisper-large-v3" / "model.safetensors")
    assert own.keys() == base.keys()
    for name, value in exact.whisper_model.encoder.state_dict().items():
        assert torch.equal(own[f"model.encoder.{name}"], value.half()), name
    changed = [name for name in own if not torch.equal(own[name], base[name])]
    assert len(changed) == 2 * 3 and all(name.startswith("model.encoder.layers.") for name in changed)
    name = "model.mimo_layers.0.mlp.up_proj.weight"
    assert torch.equal(tensors(out)[name], exact.state_dict()[name].bfloat16())
