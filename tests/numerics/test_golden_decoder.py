"""The decoder against numbers recorded from the published model (shared/golden, sections 1 and 2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.model import KimiAudioForCausalLM
from tests.numerics.closeness import assert_close


@pytest.fixture(scope="module")
def config(golden: Path) -> dict:
    return json.loads((golden / "llm.json").read_text())


@pytest.fixture(scope="module")
def model(golden: Path, config: dict, tmp_path_factory: pytest.TempPathFactory) -> KimiAudioForCausalLM:
    folder = tmp_path_factory.mktemp("golden_model")
    (folder / "config.json").write_text(json.dumps(config["config"]))
    save_file(load_file(golden / "llm_weights.safetensors"), folder / "model.safetensors")
    return KimiAudioForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "llm_cases.safetensors")


def inputs(cases: dict[str, Tensor], name: str) -> dict:
    mask = cases.get(f"{name}.is_continuous_mask")
    return {
        "input_ids": cases[f"{name}.input_ids"],
        "text_input_ids": cases[f"{name}.text_input_ids"],
        "is_continuous_mask": None if mask is None else mask.bool(),
    }


def features(cases: dict[str, Tensor], name: str) -> list[Tensor]:
    keys = [key for key in cases if key.startswith(f"{name}.whisper_input_feature")]
    return [cases[key].flatten(0, -2) for key in sorted(keys)]


def assert_logits(out: Any, cases: dict[str, Tensor], name: str) -> None:
    assert_close(out.text_logits, cases[f"{name}.logits_lm_head"])
    assert_close(out.audio_logits, cases[f"{name}.logits_mimo_output"])


@pytest.mark.parametrize("name", ["base", "multi_audio_intended"])
def test_logits(model: KimiAudioForCausalLM, cases: dict[str, Tensor], name: str) -> None:
    out = model(**inputs(cases, name), audio_features=features(cases, name))
    assert_logits(out, cases, name)


def test_short_feature_equals_zero_rows(model: KimiAudioForCausalLM, cases: dict[str, Tensor], config: dict) -> None:
    """The reference leaves missing rows zero; we refuse them, and zero rows given on purpose give its numbers."""
    rows = features(cases, "base")[0].clone()
    kept = config["short_feature_rows"]
    with pytest.raises(ValueError, match="17 codes"):
        model(**inputs(cases, "base"), audio_features=[rows[:kept]])
    rows[kept:] = 0
    out = model(**inputs(cases, "base"), audio_features=[rows])
    assert_logits(out, cases, "short_feature")


def test_no_feature(model: KimiAudioForCausalLM, cases: dict[str, Tensor]) -> None:
    out = model(**inputs(cases, "base"), audio_features=None)
    assert_logits(out, cases, "no_feature")


@pytest.mark.parametrize("given", [None, []])
def test_sample_without_audio(model: KimiAudioForCausalLM, cases: dict[str, Tensor], given: list | None) -> None:
    """The reference fails on an empty feature list; a text-only sample is sensible and works."""
    out = model(**inputs(cases, "text_only_no_feature"), audio_features=given)
    assert_logits(out, cases, "text_only_no_feature")


def test_cached_decode(model: KimiAudioForCausalLM, cases: dict[str, Tensor], config: dict) -> None:
    out = model(**inputs(cases, "base"), audio_features=features(cases, "base"), use_cache=True)
    for k, step in enumerate(config["decode_steps"]):
        out = model(
            input_ids=torch.tensor([[step["input_ids"]]]),
            text_input_ids=torch.tensor([[step["text_input_ids"]]]),
            past_key_values=out.past_key_values,
        )
        assert_logits(out, cases, f"decode.{k}")


def test_intermediate_states(model: KimiAudioForCausalLM, cases: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, key=f"{kind}.{index}": seen.update({key: args[0]}))
        for kind, layers in (("layer", model.model.layers), ("mimo_layer", model.model.mimo_layers))
        for index, layer in enumerate(layers)
    ]
    try:
        embedded = model.model.embed(*inputs(cases, "base").values(), features(cases, "base"))
        text, audio = model.model(embedded)
    finally:
        for hook in hooks:
            hook.remove()
    assert_close(text, cases["base.debug.after_norm"])
    assert_close(audio, cases["base.debug.after_mimo_norm"])
    assert set(seen) == {k.removeprefix("base.debug.input_of_") for k in cases if "input_of" in k}
    for key, value in seen.items():
        assert_close(value, cases[f"base.debug.input_of_{key}"])
