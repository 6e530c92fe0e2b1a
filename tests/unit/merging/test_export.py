"""Adapters for vLLM: leaf names for targets, and the function of the adapter over a plain Qwen2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM

from kimi_audio_ft.config.commands import ExportAdapterConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.lora.adapter import load_adapter
from kimi_audio_ft.lora.average import mean_of_adapters
from kimi_audio_ft.merging.export import export_adapter
from kimi_audio_ft.merging.folder import drafted
from kimi_audio_ft.merging.merge import merge
from kimi_audio_ft.model import KimiAudioForCausalLM, TextTokenizer
from tests.standin import Standin
from tests.unit.merging.conftest import MakeAdapter, MakeConfig

BLANK = "<|im_kimia_text_blank|>"


@torch.no_grad()
def test_over_a_plain_qwen2_it_has_the_logits_of_the_adapter(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(r=4, target_modules="decoder_and_branch")
    (adapter / "product.json").write_text(json.dumps({"base": "b", "config": {"model": {"path": "p"}, "seed": 1}}))
    copy = export_adapter(ExportAdapterConfig(str(adapter), str(tmp_path / "copy")))
    said = capsys.readouterr().out
    assert "rank 4, which an engine's max_lora_rank must allow" in said and "linears of the audio branch" in said
    written = json.loads((copy / "adapter_config.json").read_text())
    leaves = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert written["target_modules"] == leaves and (written["r"], written["lora_alpha"]) == (4, 8)
    assert all(".layers." in key and "mimo" not in key for key in load_file(copy / "adapter_model.safetensors"))
    assert json.loads((copy / "product.json").read_text()) == {"base": "b", "config": {"model": {"path": "p"}}}

    folder = merge(config(None, target="qwen2", dtype="float32", verify="false"))
    plain = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = torch.arange(40).reshape(1, 40) + 20
    alone = plain(input_ids=text).logits
    found = peft.PeftModel.from_pretrained(plain, copy)(input_ids=text).logits
    ours = KimiAudioForCausalLM.from_pretrained(standin.root)
    blank = torch.full_like(text, TextTokenizer.from_pretrained(standin.root).special_tokens[BLANK])
    expected = load_adapter(ours, adapter)(blank, text, audio_branch=False).text_logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (alone - expected).abs().max() > 0.01


def test_a_full_disk_is_told_and_keeps_nothing(
    make_adapter: MakeAdapter, tmp_path: Path, disk_of: Callable[[int], Path]
) -> None:
    """Also where safetensors writes, whose errors are of a type of their own."""
    adapter, disk = make_adapter(r=64), disk_of(64)
    with pytest.raises(ConfigError, match=r"out=.*the disk is full; nothing half-written was kept"):
        export_adapter(ExportAdapterConfig(str(adapter), str(disk / "copy")))
    mean = mean_of_adapters([adapter, adapter])
    with pytest.raises(ConfigError, match="the disk is full"), drafted(disk / "mean", lambda: False) as draft:
        assert draft is not None
        mean.save(draft)
    assert not [path for path in disk.rglob("*") if path.name.startswith((".copy", "copy", ".mean", "mean"))]


def test_the_same_again_does_nothing_and_another_is_refused(
    make_adapter: MakeAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    export_adapter(ExportAdapterConfig(str(make_adapter(r=2)), str(out)))
    export_adapter(ExportAdapterConfig(str(tmp_path / "adapter"), str(out)))
    assert "holds this adapter already" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"holds another exported adapter \(adapter differ\).*overwrite=true"):
        export_adapter(ExportAdapterConfig(str(make_adapter(r=4)), str(out)))
    export_adapter(ExportAdapterConfig(str(tmp_path / "adapter"), str(out), overwrite=True))
    with pytest.raises(ConfigError, match="must not lie in adapter="):
        export_adapter(ExportAdapterConfig(str(tmp_path / "adapter"), str(tmp_path / "adapter" / "copy")))


def test_what_an_engine_would_not_apply_is_refused(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    for settings, problem in (
        ({"target_modules": "decoder_and_adaptor"}, r"changes model\.vq_adaptor\..*\(4 such tensors\)"),
        ({"use_dora": True}, "has use_dora, which engines do not apply"),
        ({"target_modules": r"model\.mimo_layers\..*_proj"}, "changes nothing that text depends on"),
    ):
        adapter = make_adapter(r=2, **settings)
        with pytest.raises(DataError, match=problem):
            export_adapter(ExportAdapterConfig(str(adapter), str(tmp_path / "copy")))
        assert not (tmp_path / "copy").exists()
