"""The base that a process holds, with adapters put on and taken off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import is_flash_attn_2_available

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.errors import ChangedError, ConfigError, DataError
from kimi_audio_ft.lora.adapter import ONE, save_adapter
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.paths import TINY_MODEL
from tests.unit.conftest import rewrite


def logits(model: torch.nn.Module) -> Tensor:
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        return model(ids + 1064, ids + 20, audio_branch=False).text_logits


def trained(adapted: peft.PeftModel) -> peft.PeftModel:
    """The adapter after a step of plain training."""
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.arange(12).reshape(1, 12)
    out = adapted(ids + 1064, ids + 20, audio_branch=False).text_logits
    torch.nn.functional.cross_entropy(out[0], ids[0] + 7).backward()
    optimizer.step()
    return adapted


@pytest.fixture
def base() -> Base:
    return Base(ModelConfig(dtype="float32"), "none", "cpu")


def test_read_once(base: Base) -> None:
    assert base.load() is base.load() is Base(ModelConfig(dtype="float32"), "none", "cpu").load()


def test_text_targets_do_not_read_the_branch(base: Base) -> None:
    with base.new_adapters({ONE: (LoraConfig(), 1)}) as adapted:
        assert not len(adapted.base_model.model.model.mimo_layers)
    with base.new_adapters({ONE: (LoraConfig(target_modules="decoder_and_branch"), 1)}) as adapted:
        assert len(adapted.base_model.model.model.mimo_layers) == 1


def test_new_adapter_is_taken_off(base: Base) -> None:
    model = base.load()
    expected = logits(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for settings in ({}, {"use_dora": True}, {"init_lora_weights": "orthogonal"}, {"target_modules": "lm_head"}):
        with base.new_adapters({ONE: (LoraConfig(**settings), 1)}) as adapted:
            assert not torch.equal(logits(trained(adapted)), expected)
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert torch.equal(logits(model), expected)
        assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_recomputation_leaves_nothing_on_the_base() -> None:
    base = Base(ModelConfig(dtype="float32", gradient_checkpointing=True), "none", "cpu")
    for _ in range(2):
        with base.new_adapters({ONE: (LoraConfig(r=2), 1)}):
            assert base.load().is_gradient_checkpointing
        assert not base.load().get_input_embeddings()._forward_hooks
        assert not base.load().is_gradient_checkpointing


def test_files_that_change_while_they_are_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a training that is killed before its end leaves checkpoints of another base than its signature names."""
    folder = shutil.copytree(TINY_MODEL, tmp_path / "base")
    base = Base(ModelConfig(path=str(folder), dtype="float32"), "none", "cpu")
    model = KimiAudioForCausalLM.from_pretrained(folder, torch.float32, False, torch.device("cpu"))

    def read_and_edited(*arguments: Any) -> KimiAudioForCausalLM:
        rewrite(folder / "config.json", (folder / "config.json").read_bytes()[::-1])
        return model

    monkeypatch.setattr(KimiAudioForCausalLM, "from_pretrained", read_and_edited)
    base.release()
    with pytest.raises(ChangedError, match=rf"^{folder}: changed while it was being read"):
        base.load()
    assert base.load() is model, "with the files back"


def test_saved_adapter_of_the_branch_is_put_back(base: Base, tmp_path: Path) -> None:
    with base.new_adapters({ONE: (LoraConfig(target_modules="decoder_and_branch"), 1)}) as adapted:
        save_adapter(adapted, tmp_path / "a")
    with safe_open(tmp_path / "a" / "adapter_model.safetensors", "pt") as file:
        assert any(".mimo_layers." in key for key in file.keys())  # noqa: SIM118 - a safetensors file is no dict
    with base.saved_adapter(tmp_path / "a") as model:
        assert len(model.base_model.model.model.mimo_layers) == 1 and not model.training


def test_refused_adapter_leaves_the_held_base_clean(base: Base, tmp_path: Path) -> None:
    with base.new_adapters({ONE: (LoraConfig(), 1)}) as adapted:
        save_adapter(adapted, tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if "layers.0." not in key}, path)
    expected = logits(base.load())
    with pytest.raises(DataError, match="does not fit the base"), base.saved_adapter(tmp_path / "a"):
        pass
    with base.saved_adapter(None) as model:
        assert torch.equal(logits(model), expected)
        assert not any(isinstance(module, peft.tuners.lora.LoraLayer) for module in model.modules())


def test_whisper_adapter_needs_online_features(base: Base, tmp_path: Path) -> None:
    online = Base(ModelConfig(dtype="float32"), "online", "cpu")
    with online.new_adapters({ONE: (LoraConfig(r=2, target_modules="report"), 1)}) as adapted:
        save_adapter(adapted, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"data\.features='none'.*Whisper"), base.saved_adapter(tmp_path / "a"):
        pass
    with online.saved_adapter(tmp_path / "a") as model:
        assert hasattr(model.base_model.model.whisper_model.encoder.layers[0].self_attn.q_proj, "lora_A")


def test_damaged_adapter(base: Base, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="is not a LoRA adapter"), base.saved_adapter(tmp_path):
        pass


def test_flash_attention_is_no_hard_dependency(base: Base) -> None:
    """Nothing needs it, and asking for it without the package names the option and the way out."""
    base.release()
    expected = logits(base.load())
    assert torch.allclose(logits(Base(ModelConfig(dtype="float32", attention="eager"), "none", "cpu").load()), expected,
                          atol=1e-4)  # fmt: skip
    if is_flash_attn_2_available():
        pytest.skip("FlashAttention is installed here")
    with pytest.raises(ConfigError, match=r"model\.attention='flash_attention_2': cannot be used here.*attention=sdpa"):
        Base(ModelConfig(dtype="bfloat16", attention="flash_attention_2"), "none", "cpu").load()
