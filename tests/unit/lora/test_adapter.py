"""Making, saving and loading adapters: plain PEFT files, and a base that is never changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from experiments.published_layout import write_model
from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import add_adapter, load_adapter, save_adapter, stable_seed, trainable_parameters
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM
from kimi_audio_ft.paths import TINY_MODEL

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora_rslora_gaussian": {"use_dora": True, "use_rslora": True, "init_lora_weights": "gaussian"},
    "with_the_head": {"target_modules": ["attention", "lm_head"]},
}


@pytest.fixture(scope="module")
def model() -> KimiAudioForCausalLM:
    return KimiAudioForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32, audio_branch=False)


@pytest.fixture(autouse=True)
def base_stays_as_it_is(model: KimiAudioForCausalLM) -> Iterator[None]:
    """Whatever a test does, the base has the same modules and bits afterwards."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    yield
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def logits(model: torch.nn.Module) -> Tensor:
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        return model(ids + 1064, ids + 20, audio_branch=False).text_logits


def changed(adapted: peft.PeftModel, steps: int = 2) -> None:
    """A few steps of plain training, so that the adapter does something."""
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    ids = torch.arange(12).reshape(1, 12)
    for _ in range(steps):
        optimizer.zero_grad()
        out = adapted(ids + 1064, ids + 20, audio_branch=False).text_logits
        torch.nn.functional.cross_entropy(out[0], ids[0] + 7).backward()
        optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in parameters)


@pytest.fixture
def saved(model: KimiAudioForCausalLM, tmp_path: Path) -> Callable[..., tuple[Path, Tensor]]:
    """Trains and saves an adapter; returns its folder and the logits it gave."""

    def make(**settings: Any) -> tuple[Path, Tensor]:
        adapted = add_adapter(model, LoraConfig(**{"r": 4, "lora_dropout": 0.0} | settings), 1, str(TINY_MODEL))
        try:
            changed(adapted)
            expected = logits(adapted.eval())
            save_adapter(adapted, tmp_path / "adapter")
        finally:
            adapted.unload()
        return tmp_path / "adapter", expected

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_peft_loads_it_with_identical_logits(
    model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]], variant: str
) -> None:
    alone = logits(model)
    folder, expected = saved(**VARIANTS[variant])
    assert not torch.allclose(expected, alone, atol=1e-3)
    for load in (peft.PeftModel.from_pretrained, load_adapter):
        loaded = load(model, folder)
        got = logits(loaded.eval())
        loaded.unload()
        assert torch.equal(got, expected), load
    assert torch.equal(logits(model), alone)


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_hold_the_adapter_alone_and_name_the_base(
    saved: Callable[..., tuple[Path, Tensor]], variant: str
) -> None:
    folder, _ = saved(**VARIANTS[variant])
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(TINY_MODEL)
    assert config["inference_mode"] is True and config["r"] == 4 and config["lora_alpha"] == 8
    names = list(load_file(folder / "adapter_model.safetensors"))
    parts = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    assert names and all(name.startswith("base_model.model.") and name.endswith(parts) for name in names)
    assert any("magnitude" in name for name in names) == bool(VARIANTS[variant].get("use_dora"))


def test_start_depends_on_the_seed_alone(model: KimiAudioForCausalLM) -> None:
    def start(seed: int) -> dict[str, Tensor]:
        torch.rand(seed + 3)  # whatever was drawn before
        adapted = add_adapter(model, LoraConfig(), seed)
        values = {n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad}
        adapted.unload()
        return values

    first, again, other = start(1), start(1), start(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if ".lora_A." in name)
    assert all(not value.any() for name, value in first.items() if ".lora_B." in name)


def test_adding_an_adapter_leaves_the_global_generator_alone(model: KimiAudioForCausalLM) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    add_adapter(model, LoraConfig(), 1).unload()
    assert torch.equal(torch.rand(3), expected)


def test_scales(model: KimiAudioForCausalLM) -> None:
    for settings, scale in (({"r": 16}, 2.0), ({"r": 16, "lora_alpha": 8}, 0.5), ({"r": 16, "use_rslora": True}, 8.0)):
        adapted = add_adapter(model, LoraConfig(**settings), 1)
        layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == scale
        adapted.unload()


def test_adapter_is_float32_over_a_bf16_base() -> None:
    base = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.bfloat16, audio_branch=False)
    for variant in VARIANTS.values():
        adapted = add_adapter(base, LoraConfig(**{"r": 4} | variant), 1)
        assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
        changed(adapted, steps=1)
        adapted.unload()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_file(model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]], missing: str) -> None:
    folder, _ = saved()
    (folder / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing}: no such file\. Name a folder that holds an adapter"):
        load_adapter(model, folder)


@pytest.mark.parametrize(("name", "content"), [("adapter_config.json", "{"), ("adapter_model.safetensors", "xx")])
def test_damaged_file(
    model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]], name: str, content: str
) -> None:
    folder, _ = saved()
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=rf"{folder}: is not a LoRA adapter in PEFT's format"):
        load_adapter(model, folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("megatron_core", "planted"),
        ("megatron_config", {"tensor_model_parallel_size": 1}),
        ("auto_mapping", {"base_model_class": "Model", "parent_library": "planted"}),
    ],
)
def test_an_adapter_that_names_code_is_refused(
    model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]], key: str, value: Any
) -> None:
    folder, _ = saved()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(DataError, match=f"{key}=.*names Python code to import"):
        load_adapter(model, folder)


def test_another_kind_of_adapter(model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]]) -> None:
    folder, _ = saved()
    peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(str(folder))
    with pytest.raises(DataError, match=r"is not a LoRA adapter in PEFT's format .*IA3"):
        load_adapter(model, folder)


def other_base(folder: Path, field: str, change: int) -> KimiAudioForCausalLM:
    """A random model that differs from the tiny one in one size."""
    config = json.loads((TINY_MODEL / "config.json").read_text())
    write_model(
        KimiAudioForCausalLM(KimiAudioConfig(**config | {field: config[field] + change})), folder, torch.float32
    )
    return KimiAudioForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "change", "problem"),
    [
        ("intermediate_size", -8, r"mlp\.down_proj\.lora_A\.weight: the adapter has \(4, \d+\), the base \(4, \d+\)"),
        ("num_hidden_layers", 1, r"lora_A\.weight: the adapter has no tensor"),
        ("num_hidden_layers", -1, r"lora_A\.weight: .*the base no such target"),
    ],
)
def test_wrong_base(
    saved: Callable[..., tuple[Path, Tensor]], tmp_path: Path, field: str, change: int, problem: str
) -> None:
    folder, _ = saved()
    other = other_base(tmp_path / "other", field, change)
    modules = [name for name, _ in other.named_modules()]
    with pytest.raises(DataError, match=rf"adapter: does not fit the base .*{problem}.*Set model\.path to the base"):
        load_adapter(other, folder)
    assert [name for name, _ in other.named_modules()] == modules, "a refused adapter leaves nothing on the base"


def test_no_target_on_this_base(model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]]) -> None:
    folder, _ = saved()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": "decoder.block.0"}))
    with pytest.raises(DataError, match=r"does not fit the base .*decoder\.block\.0"):
        load_adapter(model, folder)


def test_starts_that_change_the_base_are_refused(
    model: KimiAudioForCausalLM, saved: Callable[..., tuple[Path, Tensor]]
) -> None:
    """PEFT subtracts a PiSSA start from the base's weights, also while loading; here the base is shared."""
    folder, _ = saved()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "pissa"}))
    with pytest.raises(DataError, match=r"init_lora_weights='pissa', which changes the base.*Convert it with PEFT"):
        load_adapter(model, folder)


def test_trainable_parameters(model: KimiAudioForCausalLM) -> None:
    adapted = add_adapter(model, LoraConfig(r=3, target_modules="attention"), 1)
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    per_layer = 3 * ((width + heads) + 2 * (width + shared) + (heads + width))
    assert trainable_parameters(adapted) == config.num_hidden_layers * per_layer
    adapted.unload()
    model.requires_grad_(True)
    assert trainable_parameters(model) == sum(p.numel() for p in model.parameters())
    model.requires_grad_(False)


def test_stable_seed() -> None:
    assert stable_seed("adapter", 1) == 6195610074998131611
    assert stable_seed("ab", 1) != stable_seed("a", "b1")
    assert 0 <= stable_seed() < 2**63
