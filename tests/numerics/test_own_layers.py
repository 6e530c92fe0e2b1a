"""A decoder's own layers compute as transformers and PEFT do, in training, validation and decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig, TrainConfig
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.lora.adapter import ONE, save_adapter
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.runtime.devices import limit_threads, use_idle_cores
from kimi_audio_ft.runtime.reproducible import threads_change_nothing
from tests.numerics.closeness import assert_close
from tests.numerics.pack_lab import NAMES, Lab
from tests.sameness import assert_same, assert_within_rounding, packs_are_exact

Config = Callable[..., TrainConfig]

# Rank 8, alpha 16: a power of two. Alpha 12 is none: those updates are computed after the layer.
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "all_seven": {},
    "dropout": {"lora": {"lora_dropout": 0.2}},
    "mlp_with_dropout": {"lora": {"target_modules": "mlp", "lora_dropout": 0.2}},
    "query_and_value": {"lora": {"target_modules": r"model\.layers\.\d+\.self_attn\.[qv]_proj"}},
    "branch": {"lora": {"target_modules": "decoder_and_branch"}},
    "other_scaling": {"lora": {"lora_alpha": 12, "lora_dropout": 0.2}},
    "recomputed": {"lora": {"lora_dropout": 0.2}, "model": {"gradient_checkpointing": True}},
}


@pytest.mark.parametrize("way", WAYS)
def test_training_alone_equals_plain(trial_config: Config, lab: Lab, way: str) -> None:
    changes, name = {"a8": {"lora": WAYS[way].get("lora", {})}}, NAMES[1]
    config = trial_config(trainer={"max_epochs": 1, "max_steps": 3}, model=WAYS[way].get("model", {}))
    assert_within_rounding(lab.alone(config, name, changes), lab.alone(config, name, changes, plain=True))


def test_training_does_not_depend_on_the_number_of_threads(trial_config: Config, lab: Lab) -> None:
    """The last of several packs side by side gets the threads of the others, where that changes nothing."""
    config, before = trial_config(trainer={"max_epochs": 1, "max_steps": 3}), torch.get_num_threads()
    used = []
    try:
        for times, place in ((1, "one"), (2, "two")):
            limit_threads(1)

            def grow(times: int = times) -> bool:
                use_idle_cores(times)
                used.append(torch.get_num_threads())
                return False

            lab.run(config, ["a8"], {}, place, should_stop=grow)
    finally:
        limit_threads(0)
        torch.set_num_threads(before)
    assert used == [1, 1, 1, 2, 2, 2] if packs_are_exact() else set(used) == {1}
    assert_same(lab.folder("a8", "one"), lab.folder("a8", "two"))


def test_threads_change_sums_of_large_tensors() -> None:
    frozen = [torch.eye(8)]
    assert not threads_change_nothing([torch.zeros(8, 4096)], frozen)
    assert not threads_change_nothing([torch.zeros(8, 8, dtype=torch.bfloat16)], frozen)


def operations(output: torch.Tensor) -> set[str]:
    """Names of all operations that an output's gradient goes back through."""
    found, left = dict[Any, str](), [output.grad_fn]
    while left:
        node: Any = left.pop()
        if node is not None and node not in found:
            found[node] = node.name()
            left += [before for before, _ in node.next_functions]
    return set(found.values())


@pytest.fixture
def prompt() -> dict[str, torch.Tensor]:
    """Three prompts of 9 positions, padded on the left."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 1000, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :1] = 0
    return {
        "input_ids": ids, "text_input_ids": ids.flip(0), "attention_mask": mask, "is_continuous_mask": mask == 2,
    }  # fmt: skip


@pytest.fixture
def base() -> Iterator[Base]:
    base = Base(ModelConfig(dtype="float32"), "none", "cpu")
    yield base
    base.release()


def test_training_uses_them(base: Base, prompt: dict[str, torch.Tensor]) -> None:
    ours = {"_NormedBackward", "_RotatedBackward", "_GatedBackward", "_AdaptedBackward"}
    for plain in (False, True):
        one = replace(base, plain=plain)
        with one.new_adapters({ONE: (LoraConfig(lora_dropout=0.0), 1)}) as model, own_updates(model, ONE):
            used = operations(model(**prompt, audio_branch=False).text_logits) & ours
        assert used == ({"_AdaptedBackward"} if plain else ours)


def test_decoding_equals_plain(base: Base, prompt: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with base.new_adapters({ONE: (LoraConfig(), 1)}) as model:
        for parameter in filter(lambda one: one.requires_grad, model.parameters()):
            torch.nn.init.normal_(parameter, std=0.1)
        save_adapter(model, tmp_path)
    settings = [replace(TrainConfig().decoding, text_temperature=heat, max_new_tokens=12) for heat in (0.0, 0.7)]
    answers, logits = [], []
    for plain in (False, True):
        with replace(base, plain=plain).saved_adapter(tmp_path) as model, torch.inference_mode():
            answers.append(generate_texts(model, prompt, settings, [[1, 2, 3]] * 2, 1048, 1046))
            logits.append(model(**prompt, audio_branch=False).text_logits)
    assert answers[0] == answers[1]
    assert_close(*logits)


def test_trained_norms_get_their_gradient(base: Base, prompt: dict[str, torch.Tensor]) -> None:
    """As in a training of the whole base, which our layers leave to transformers' own."""
    model = base.load().requires_grad_(True)
    model(**prompt, audio_branch=False).text_logits.square().mean().backward()
    assert all(layer.input_layernorm.weight.grad.abs().max() > 0 for layer in model.model.layers)
