"""Updates equal PEFT's own merge in float32, for every way of scaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import load_adapter
from kimi_audio_ft.merging.weights import Update, read_updates
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.model.checkpoint import read_config
from tests.standin import Standin
from tests.unit.merging.conftest import MakeAdapter, randomized


def on_meta(root: Path) -> KimiAudioForCausalLM:
    with torch.device("meta"):
        return KimiAudioForCausalLM(read_config(root))


def assert_as_peft(root: Path, folder: Path) -> dict[str, Update]:
    """Every weight equals PEFT's merge bit by bit, whole and in pieces up to the order of sums."""
    base = KimiAudioForCausalLM.from_pretrained(root, torch.float32).state_dict()
    updates = read_updates(on_meta(root), folder)
    merged = load_adapter(KimiAudioForCausalLM.from_pretrained(root, torch.float32), folder).merge_and_unload()
    for name, expected in merged.state_dict().items():
        if name not in updates:
            assert torch.equal(expected, base[name]), name
            continue
        assert not torch.equal(expected, base[name]), name
        assert torch.equal(updates[name].merged(base[name], 0), expected), name
        pieces = [updates[name].merged(base[name][start : start + 7], start) for start in range(0, len(expected), 7)]
        torch.testing.assert_close(torch.cat(pieces), expected, rtol=1e-5, atol=1e-7)
    return updates


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_alpha": 3}, {"use_rslora": True}, {"use_dora": True}, {"target_modules": ["attention", "lm_head"]}],
)
def test_equal_to_peft(standin: Standin, make_adapter: MakeAdapter, settings: dict[str, Any]) -> None:
    updates = assert_as_peft(standin.root, make_adapter(r=4, **settings))
    assert len(updates) == (21 if "target_modules" in settings else 35)


def test_ranks_and_scales_by_pattern(standin: Standin, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.*.up_proj": 40}}
    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "up_proj"], **patterns)
    model = KimiAudioForCausalLM.from_pretrained(standin.root, torch.float32)
    updates = assert_as_peft(standin.root, randomized(peft.get_peft_model(model, config), tmp_path / "adapter"))
    assert len(updates["model.layers.0.self_attn.q_proj.weight"].a) == 3
    assert updates["model.layers.0.self_attn.q_proj.weight"].scaling == pytest.approx(5 / 3)
    assert updates["model.layers.1.mlp.up_proj.weight"].scaling == 20


def refused(root: Path, folder: Path, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_updates(on_meta(root), folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["embed_tokens"]}, "changes model.embed_tokens in a way that is not merged"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, "tensors besides those of LoRA"),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "tensors besides those of LoRA|in a way"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "in a way that is not merged"),
    ],
)
def test_what_is_more_than_lora_is_refused(
    standin: Standin, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    model = KimiAudioForCausalLM.from_pretrained(standin.root, torch.float32)
    folder = randomized(peft.get_peft_model(model, peft.LoraConfig(r=2, **options)), tmp_path / "adapter")
    refused(standin.root, folder, expected)


def test_an_adapter_of_another_base(standin: Standin, make_adapter: MakeAdapter) -> None:
    folder = make_adapter()
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({key: value for key, value in weights.items() if key != name}, folder / "adapter_model.safetensors")
    refused(standin.root, folder, "does not fit the base")
