"""The base in 4 bits: what becomes small, what stays, and that adapters train on it as on any base."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import ModelConfig, TrainConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.model.quantization import quantize_layers
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.trial import Trial

bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes (the extra `gpu`)")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair() -> tuple[KimiAudioForCausalLM, KimiAudioForCausalLM]:
    """The tiny base in bf16, and the same in 4 bits."""
    whole, small = (KimiAudioForCausalLM.from_pretrained(TINY_MODEL, torch.bfloat16, False) for _ in range(2))
    quantize_layers(small, CPU)
    return whole, small


def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        return model(ids + 1064, ids + 20, audio_branch=False).text_logits.float()


def test_the_linears_of_the_layers_and_nothing_else(pair: tuple[KimiAudioForCausalLM, ...]) -> None:
    whole, small = pair
    linears = {name for name, module in whole.named_modules() if isinstance(module, nn.Linear)}
    quantized = {name for name, module in small.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert quantized == {name for name in linears if name.startswith("model.layers.")} and len(quantized) == 5 * 7
    sizes = {name: p.nbytes / whole.get_parameter(name).nbytes for name, p in small.named_parameters()}
    weights = {f"{name}.weight" for name in quantized}
    assert {sizes[name] for name in weights} == {0.25}  # 4 bits for 16
    assert {ratio for name, ratio in sizes.items() if name not in weights} == {1.0}
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_it_computes_nearly_the_same(pair: tuple[KimiAudioForCausalLM, ...]) -> None:
    whole, small = map(logits, pair)
    error = (whole - small).norm() / whole.norm()
    assert 1e-3 < error < 0.25, "4 bits are coarse, but it is the same model"


@pytest.mark.slow
def test_an_adapter_trains_on_it_and_comes_off(trial_config: Callable[..., TrainConfig]) -> None:
    config = trial_config(model={"dtype": "bfloat16", "quantization": "nf4"}, trainer={"max_epochs": 4})
    trial = Trial(config)
    before = logits(trial.base.load())
    fitted = trial.adapter()
    losses = [row["loss"] for row in read_jsonl(fitted.folder / "curves.jsonl") if row["split"] == "train"]
    assert all(map(math.isfinite, losses)) and losses[-1] < 0.8 * losses[0]
    assert torch.equal(logits(trial.base.load()), before), "the base is as it was"
    with trial.base.saved_adapter(fitted.folder) as adapted:
        assert {p.dtype for n, p in adapted.named_parameters() if "lora_" in n} == {torch.float32}
        assert not torch.equal(logits(adapted), before)
    plain = Trial(trial_config(model={"dtype": "bfloat16"}, trainer={"max_epochs": 4}))
    assert plain.training_signature != trial.training_signature


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = "kimi_audio_ft.model.quantization.find_spec"
    monkeypatch.setattr(hidden, lambda name: None if name == "bitsandbytes" else find(name))
    base = Base(ModelConfig(dtype="bfloat16", quantization="nf4"), "none", "cpu")
    base.release()
    with pytest.raises(ConfigError, match=r"model\.quantization='nf4': needs bitsandbytes.*pip install"):
        base.load()


def test_shards_are_refused(trial_config: Callable[..., TrainConfig]) -> None:
    zero = {"strategy": "deepspeed_zero3", "deepspeed": {"zero_optimization": {"stage": 3}}}
    refusal = r"model\.quantization='nf4': 4-bit weights cannot be spread.*trainer=ddp"
    for trainer in ({"strategy": "fsdp"}, zero):
        with pytest.raises(ConfigError, match=refusal):
            trial_config(model={"quantization": "nf4"}, trainer=trainer)


def test_branch_layers_too() -> None:
    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, torch.bfloat16, True)
    quantize_layers(model, CPU)
    branch = [m for m in model.model.mimo_layers.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(branch) == 7
