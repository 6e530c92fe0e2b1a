"""The published checkpoint layout: what is read, what is left unread, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.published_layout import write_model
from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM
from kimi_audio_ft.model.checkpoint import TensorInfo, read_config, read_header, write_in_pieces
from kimi_audio_ft.model.files import locate, require_folder
from kimi_audio_ft.paths import TINY_MODEL

INDEX = "model.safetensors.index.json"
CONFIG: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "kimia_mimo_layers": 2,
    "kimia_mimo_transformer_from_layer_index": 1,
    "kimia_token_offset": 30,
    "kimia_adaptor_input_dim": 12,
    "rope_theta": 5e5,
}
INPUTS: dict[str, Any] = {
    "input_ids": torch.tensor([[1, 31, 32, 2]]),
    "text_input_ids": torch.tensor([[3, 4, 5, 6]]),
    "is_continuous_mask": torch.tensor([[False, True, True, False]]),
    "audio_features": [torch.linspace(-1, 1, 24).reshape(2, 12)],
}


@pytest.fixture(scope="module")
def model() -> KimiAudioForCausalLM:
    torch.manual_seed(1)
    return KimiAudioForCausalLM(KimiAudioConfig(**CONFIG)).eval().requires_grad_(False)  # as a checkpoint is read


@pytest.fixture
def folder(model: KimiAudioForCausalLM, tmp_path: Path) -> Path:
    """A checkpoint of several shards, written by us."""
    write_model(model, tmp_path / "base", torch.float32, shard_bytes=4000)
    return tmp_path / "base"


def weight_map(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX).read_text())["weight_map"]


def rewrite(folder: Path, shard_of: Callable[[str], str], change: Callable[[dict[str, Tensor]], None]) -> None:
    """Write all tensors anew, changed, into shards named by ``shard_of``."""
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map(folder).values())):
        tensors |= load_file(folder / shard)
        (folder / shard).unlink()
    change(tensors)
    names = {key: shard_of(key) for key in tensors}
    for shard in set(names.values()):
        save_file({key: value for key, value in tensors.items() if names[key] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


@torch.no_grad()
def logits(model: KimiAudioForCausalLM) -> Tensor:
    return model(**INPUTS).text_logits


def test_a_round_trip(model: KimiAudioForCausalLM, folder: Path) -> None:
    shards = sorted(set(weight_map(folder).values()))
    assert len(shards) > 3 and shards[0] == f"model-1-of-{len(shards)}.safetensors"
    assert {path.name for path in folder.iterdir()} == {*shards, INDEX, "config.json"}
    again = KimiAudioForCausalLM.from_pretrained(folder)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        ours, theirs = again(**INPUTS), model(**INPUTS)
    assert torch.equal(ours.text_logits, theirs.text_logits) and torch.equal(ours.audio_logits, theirs.audio_logits)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())


def test_a_round_trip_in_bf16(model: KimiAudioForCausalLM, tmp_path: Path) -> None:
    write_model(model, tmp_path, torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    stored = load_file(tmp_path / "model-1-of-1.safetensors")
    rounded = {key: value.to(torch.bfloat16) for key, value in model.state_dict().items()}
    assert stored.keys() == rounded.keys() and all(torch.equal(stored[key], rounded[key]) for key in stored)
    total = sum(tensor.nbytes for tensor in stored.values())
    assert json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"] == total
    for dtype in (torch.bfloat16, torch.float32):
        again = KimiAudioForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in again.parameters()} == {dtype}
        assert all(torch.equal(value, rounded[key].to(dtype)) for key, value in again.state_dict().items())
        # Rotary frequencies stay float32: rounded ones shift every position.
        assert again.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.float32


def test_the_config_in_the_published_words(folder: Path) -> None:
    written = json.loads((folder / "config.json").read_text())
    assert {key: written[key] for key in CONFIG} == CONFIG
    assert written["architectures"] == ["MoonshotKimiaForCausalLM"] and "rope_parameters" not in written
    config = read_config(folder)
    assert config.rope_theta == 5e5 and config.num_base_tokens == 151643
    assert config.to_dict() == read_config(folder).to_dict()


def test_shards_of_any_name_are_found_by_the_index(model: KimiAudioForCausalLM, folder: Path) -> None:
    """The published ones are model-1-of-35 to model-35-of-35 and model-36-of-36; other files are not looked at."""
    rewrite(folder, lambda key: f"model-{1 + len(key) % 3}-of-{35 + len(key) % 2}.safetensors", lambda tensors: None)
    (folder / "model-9-of-35.safetensors").write_bytes(b"not a shard of this index")
    assert torch.equal(logits(KimiAudioForCausalLM.from_pretrained(folder)), logits(model))


def test_one_file_without_an_index(model: KimiAudioForCausalLM, folder: Path) -> None:
    rewrite(folder, lambda key: "model.safetensors", lambda tensors: None)
    (folder / INDEX).unlink()
    assert torch.equal(logits(KimiAudioForCausalLM.from_pretrained(folder)), logits(model))


def refused(folder: Path, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        KimiAudioForCausalLM.from_pretrained(folder)


def test_missing_and_unknown_tensors_are_listed(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"], tensors["mimo_output.weight"]
        tensors["model.layers.3.mlp.up_proj.weight"] = torch.zeros(1)

    rewrite(folder, lambda key: "a.safetensors", change)
    missing, unknown = r"mimo_output\.weight, model\.layers\.1\.mlp\.up_proj\.weight", r"model\.layers\.3\.mlp\.up_proj"
    refused(folder, rf"missing {missing}; unexpected {unknown}")


def test_shapes_must_be_the_config_s(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 24', '"intermediate_size": 25'))
    refused(folder, r"contradict config\.json: .*gate_proj\.weight \[24, 16\] instead of \[25, 16\].*and \d+ more")


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    shard = folder / weight_map(folder)["lm_head.weight"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    refused(folder, rf"{shard.name}: is not a readable safetensors file")
    shard.unlink()
    refused(folder, rf"{shard.name}: is not there, but {INDEX} names it.*Download it again")
    names = weight_map(folder)
    names["lm_head.weight"] = names["model.embed_tokens.weight"]
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    refused(folder, r"does not hold lm_head\.weight, as .*Download it again")
    (folder / INDEX).write_text("{}")
    refused(folder, rf"{INDEX}: has no 'weight_map'")
    (folder / INDEX).unlink()
    refused(folder, rf"base: holds neither model\.safetensors nor {INDEX}")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", r"config\.json: is not JSON"),
        ("[]", r"config\.json: is not a JSON object"),
        ('{"vocab_size": "many"}', r"describes no Kimi-Audio model \(.*'vocab_size' expected int, got str"),
        ('{"num_attention_heads": 0}', r"config\.json: describes no Kimi-Audio model \("),
        ('{"kimia_mimo_transformer_from_layer_index": 28}', r"from_layer_index=28: .*one of the 28 layers \(0 to 27\)"),
        ('{"kimia_token_offset": 168448}', r"kimia_token_offset=168448: .*inside vocab_size=168448"),
    ],
)
def test_bad_configs(tmp_path: Path, config: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(DataError, match=expected + r".*Set model\.path to a Kimi-Audio checkpoint"):
        read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json: cannot be read \(No such file.*Set model\.path"):
        read_config(tmp_path)


def test_where_the_parts_of_a_checkpoint_lie(folder: Path, tmp_path: Path) -> None:
    files = locate(ModelConfig(path=str(folder)))
    assert (files.root, files.whisper) == (folder, folder / "whisper-large-v3")
    assert files.speech_tokenizer == folder / "glm-4-voice-tokenizer"
    other = locate(ModelConfig(path=str(folder), speech_tokenizer=str(tmp_path)))
    assert other.speech_tokenizer == tmp_path
    assert locate(ModelConfig(path="tiny")).root == TINY_MODEL
    for path in (tmp_path / "none", folder / "config.json"):
        with pytest.raises(ConfigError, match=r"model\.path=.*'tiny', a hub id or a checkpoint folder.*Download"):
            locate(ModelConfig(path=str(path)))
    assert require_folder("model.path", folder, "the base") == folder
    with pytest.raises(ConfigError, match=r"model\.path=.*none': the base must be a folder, and there is none"):
        require_folder("model.path", tmp_path / "none", "the base")


def test_the_identity_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    identity = locate(ModelConfig(path=str(folder))).identity()
    moved = folder.rename(tmp_path / "moved")
    assert locate(ModelConfig(path=str(moved))).identity() == identity
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    assert locate(ModelConfig(path=str(moved))).identity() != identity


# Safetensors files written in pieces are what the library writes, and headers say what it reads.

TENSORS = {
    "odd": torch.arange(3, dtype=torch.float32),
    "bf16": torch.randn(7, 5).to(torch.bfloat16),
    "conv": torch.randn(4, 3, 2).half(),
    "one": torch.tensor([5], dtype=torch.int64),
}
INFOS = {name: TensorInfo(value.dtype, tuple(value.shape)) for name, value in TENSORS.items()}


def pieces(name: str) -> Iterator[Tensor]:
    yield from TENSORS[name].split(2)


def test_written_in_pieces(tmp_path: Path) -> None:
    write_in_pieces(tmp_path / "a.safetensors", INFOS, pieces)
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in TENSORS.items())
    assert read_header(tmp_path / "a.safetensors") == INFOS


def test_header_of_the_library_s_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert read_header(tmp_path / "b.safetensors") == INFOS
    assert INFOS["bf16"].nbytes == 70


def test_a_tensor_that_is_not_whole_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="bf16"):
        write_in_pieces(tmp_path / "c.safetensors", INFOS, lambda name: islice(pieces(name), 2))


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x0a\0\0\0\0\0\0\0" + b'{"a":{"b":1}}']
)
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.safetensors: is not a readable safetensors file.*Download it again"):
        read_header(tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=r"is not a readable safetensors file \(No such file"):
        read_header(tmp_path / "none")
