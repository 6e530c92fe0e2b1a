"""Adapters made elsewhere, damaged ones, and those of another base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from kimi_audio_ft.base import Base, require_base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.lora.adapter import load_adapter, read_adapter
from kimi_audio_ft.merging.merge import CODE, Merge, merge
from kimi_audio_ft.model import KimiAudioForCausalLM, WhisperFeatureExtractor
from kimi_audio_ft.paths import TINY_MODEL
from tests.standin import Standin
from tests.unit.merging.conftest import MakeAdapter, MakeConfig, randomized

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def rewritten(folder: Path, **changes: torch.Tensor) -> None:
    save_file(load_file(folder / WEIGHTS) | changes, folder / WEIGHTS)


def whole_model(root: Path) -> KimiAudioForCausalLM:
    model = KimiAudioForCausalLM.from_pretrained(root, torch.float32)
    model.attach_whisper(WhisperFeatureExtractor.from_pretrained(root / "whisper-large-v3"))
    return model


def test_an_adapter_with_nan_is_refused_by_the_tensors_name(make_adapter: MakeAdapter, config: MakeConfig) -> None:
    folder = make_adapter(r=2)
    name = sorted(load_file(folder / WEIGHTS))[3]
    rewritten(folder, **{name: torch.full_like(load_file(folder / WEIGHTS)[name], torch.nan)})
    for use in (lambda: read_adapter(folder), lambda: merge(config(folder))):
        with pytest.raises(DataError, match=f"{name} has values that are not finite"):
            use()


def test_bare_names_fit_a_base_with_its_whisper_encoder_and_merge(
    standin: Standin, config: MakeConfig, tmp_path: Path
) -> None:
    """Trained without Whisper, which has projections of the same names."""
    alone = KimiAudioForCausalLM.from_pretrained(standin.root, torch.float32, audio_branch=False)
    trained = peft.get_peft_model(alone, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    folder = randomized(trained, tmp_path / "adapter")
    loaded = load_adapter(whole_model(standin.root), folder)
    tuned = {name for name, _ in loaded.named_modules() if name.endswith("lora_A")}
    assert tuned and not any("whisper" in name or "mimo" in name for name in tuned)
    assert set(Merge(config(folder)).updates) == {
        name.removeprefix("base_model.model.").removesuffix(".lora_A") + ".weight" for name in tuned
    }


def test_unchanged_base_layers_beside_an_adapter_are_ignored(make_adapter: MakeAdapter, config: MakeConfig) -> None:
    folder = make_adapter(r=2, target_modules=["attention", "lm_head"])
    expected = Merge(config(folder)).updates.keys()
    rewritten(folder, **{"base_model.model.lm_head.base_layer.weight": torch.zeros(3, 3)})
    assert Merge(config(folder)).updates.keys() == expected


def test_the_published_forks_name_of_whispers_encoder_is_read(make_adapter: MakeAdapter, config: MakeConfig) -> None:
    folder = make_adapter(r=2, target_modules="report")
    expected = Merge(config(folder)).updates
    save_file(
        {key.replace("model.encoder.", "model.speech_encoder."): v for key, v in load_file(folder / WEIGHTS).items()},
        folder / WEIGHTS,
    )
    written = (folder / CONFIG).read_text().replace("encoder", "speech_encoder")
    (folder / CONFIG).write_text(written)
    assert any("speech_encoder" in name for name in load_file(folder / WEIGHTS))
    found = Merge(config(folder)).updates
    assert found.keys() == expected.keys() and all(torch.equal(found[key].b, expected[key].b) for key in found)


def test_an_adapter_of_another_base_of_equal_shape_is_refused_unless_insisted(
    standin: Standin, make_adapter: MakeAdapter, config: MakeConfig
) -> None:
    folder, base = make_adapter(r=2), Base(ModelConfig(path=str(standin.root)), "none", "cpu")
    facts = {"base": "another", "config": {"model": {"path": "moonshotai/Kimi-Audio-7B"}}}
    (folder / "product.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"another base \(moonshotai/Kimi-Audio-7B\).*any_base=true"):
        Merge(config(folder))
    with pytest.raises(ConfigError, match="another base"):
        require_base(base, folder)
    Merge(config(folder, any_base=True))
    (folder / "product.json").write_text(json.dumps(facts | {"base": base.identity}))
    Merge(config(folder))


def test_a_float32_merge_of_whisper_keeps_float32_there_too(make_adapter: MakeAdapter, config: MakeConfig) -> None:
    task = Merge(config(make_adapter(r=2, target_modules="report"), dtype="float32"))
    merged = {name for name in task.encoder if name in task.updates}
    assert merged and {task.encoder[name].info.dtype for name in merged} == {torch.float32}


def test_the_merged_embedded_model_has_its_speech_tokenizer_and_says_what_the_published_code_needs(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kimi_audio_ft.lora.adapter import add_adapter

    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, torch.float32, audio_branch=False)
    folder = randomized(add_adapter(model, LoraConfig(r=2), 1), tmp_path / "adapter")
    out = merge(replace(config(folder), model=ModelConfig(), verify="false"))
    found = Base(ModelConfig(path=str(out)), "none").files
    assert (found.speech_tokenizer / "model.safetensors").is_file()
    assert all(name in capsys.readouterr().out for name in CODE[:1])
