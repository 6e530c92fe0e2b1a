"""Targets by full path, and the parameter counts that the published run reported."""

from __future__ import annotations

import pytest
import torch

from kimi_audio_ft.base import Base, on_meta
from kimi_audio_ft.config.train import LoraConfig, ModelConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.lora.adapter import add_adapter, trainable_parameters
from kimi_audio_ft.lora.targets import PRESETS, linears_of, matched, needs_branch, needs_features, needs_whisper
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, WhisperFeatureExtractor
from kimi_audio_ft.model.whisper import SHAPE_7B

LAYERS, BRANCH, WHISPER = "model.layers.", "model.mimo_layers.", "whisper_model.encoder.layers."
ADAPTOR = "model.vq_adaptor."


@pytest.fixture(scope="module")
def published() -> KimiAudioForCausalLM:
    """Kimi-Audio-7B with its Whisper encoder, without memory for a single weight."""
    with torch.device("meta"):
        model = KimiAudioForCausalLM(KimiAudioConfig())
        model.attach_whisper(WhisperFeatureExtractor(SHAPE_7B))
    return model


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "trained", "parts"),
    [
        ("decoder", 20_185_088, {LAYERS}),
        ("decoder_and_branch", 24_510_464, {LAYERS, BRANCH}),
        ("report", 26_476_544, {LAYERS, BRANCH, WHISPER}),
        ("decoder_and_adaptor", 20_312_064, {LAYERS, ADAPTOR}),
        ("decoder_adaptor_whisper", 22_933_504, {LAYERS, ADAPTOR, WHISPER}),
    ],
)
def test_published_adapter_sizes(published: KimiAudioForCausalLM, preset: str, trained: int, parts: set[str]) -> None:
    base = count(published)
    adapted = add_adapter(published, LoraConfig(r=8, target_modules=preset), seed=1)
    try:
        names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert trainable_parameters(adapted) == trained
        assert count(adapted) == base + trained
        assert all(".lora_A." in name or ".lora_B." in name for name in names)
        inner = [name.removeprefix("base_model.model.") for name in names]
        every = (LAYERS, BRANCH, ADAPTOR, WHISPER)
        assert {part for part in every if any(name.startswith(part) for name in inner)} == parts
        assert all(name.startswith(tuple(parts)) for name in inner)
    finally:
        adapted.unload()
    assert count(published) == base


@pytest.mark.parametrize(
    ("preset", "trained"),
    [("decoder", 97_280), ("decoder_and_adaptor", 103_424), ("decoder_adaptor_whisper", 115_712)],
)
def test_adapter_sizes_of_the_embedded_model(preset: str, trained: int) -> None:
    model = on_meta(Base(ModelConfig(), "online", "cpu").files)
    assert trainable_parameters(add_adapter(model, LoraConfig(r=8, target_modules=preset), seed=1)) == trained


def test_report_total(published: KimiAudioForCausalLM) -> None:
    assert count(published) + 26_476_544 == 10_429_779_968


@pytest.mark.parametrize(
    ("preset", "linears_of_layer_3"),
    [
        ("attention", ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"]),
        ("mlp", ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]),
    ],
)
def test_parts_of_a_layer(published: KimiAudioForCausalLM, preset: str, linears_of_layer_3: list[str]) -> None:
    found = matched(linears_of(published), preset)
    assert [name for name in found if name.startswith(f"{LAYERS}3.")] == [f"{LAYERS}3.{n}" for n in linears_of_layer_3]
    assert len(found) == 28 * len(linears_of_layer_3)
    assert all(name.startswith(LAYERS) for name in found)


def test_adaptor_preset(published: KimiAudioForCausalLM) -> None:
    added = set(matched(linears_of(published), "decoder_and_adaptor")) - set(matched(linears_of(published), "decoder"))
    assert added == {"model.vq_adaptor.layers.0", "model.vq_adaptor.layers.3"}


def test_every_preset_matches_something(published: KimiAudioForCausalLM) -> None:
    for preset in PRESETS:
        names = matched(linears_of(published), preset)
        assert names and len(names) == len(set(names))
        assert needs_branch(names) == (preset in ("decoder_and_branch", "report"))
        assert needs_whisper(names) == (preset in ("report", "decoder_adaptor_whisper"))
        assert needs_features(names) == (preset in ("decoder_and_adaptor", "decoder_adaptor_whisper"))


def test_list_of_presets_and_paths(published: KimiAudioForCausalLM) -> None:
    both = [r"model\.layers\.0\.self_attn\.q_proj", "mlp"]
    expected = {f"{LAYERS}0.self_attn.q_proj", *matched(linears_of(published), "mlp")}
    assert set(matched(linears_of(published), both)) == expected
    adapted = add_adapter(published, LoraConfig(target_modules=both), seed=1)
    wrapped = {name.removeprefix("base_model.model.") for name, m in adapted.named_modules() if hasattr(m, "lora_A")}
    adapted.unload()
    assert wrapped == expected


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        # PEFT would match `q_proj` anywhere, Whisper included.
        ("q_proj", r"lora\.target_modules='q_proj': matches none of the model's \d+ linears"),
        (r"model\.embed_tokens", "matches none"),
        (["decoder", r"model\.layer\.0\..*q_proj"], r"'model.+layer.+0.+q_proj': matches none"),
        ("model.(", r"lora\.target_modules='model\.\(': is neither a preset \(decoder, .*nor a"),
    ],
    ids=["a bare name", "no linear", "one idle member of a list", "a bad regular expression"],
)
def test_targets_that_match_no_linear(published: KimiAudioForCausalLM, targets: str | list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        matched(linears_of(published), targets)


@pytest.mark.parametrize("preset", ["decoder_and_adaptor", "decoder_adaptor_whisper"])
def test_the_adaptor_needs_features(preset: str) -> None:
    """Without them it would be saved as it was made, and count as trained."""
    lora = LoraConfig(target_modules=preset)
    with pytest.raises(ConfigError, match=rf"lora\.target_modules='{preset}'.*Set data\.features="):
        Base(ModelConfig(dtype="float32"), "none", "cpu").targets(lora)
    names = Base(ModelConfig(dtype="float32"), "online", "cpu").targets(lora)
    assert needs_features(names)


def test_whisper_targets_need_online_features() -> None:
    lora = LoraConfig(target_modules="report")
    with pytest.raises(ConfigError, match=r"lora\.target_modules='report'.*Set data\.features=online"):
        Base(ModelConfig(dtype="float32"), "cached", "cpu").targets(lora)
    names = Base(ModelConfig(dtype="float32"), "online", "cpu").targets(lora)
    assert any(name.startswith("whisper_model.encoder.layers.0.self_attn.") for name in names)
    assert not any("out_proj" in name or "fc1" in name for name in names)
