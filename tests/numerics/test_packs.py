"""An adapter that was trained in a pack is the adapter that was trained alone, whoever its neighbours are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.quiet import quiet_libraries
from kimi_audio_ft.schema import LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.training.members import Member
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]
Run = Callable[..., dict[str, Any]]

# Three adapters that differ in all that may differ in a pack.
RANKS = {"a4": 4, "a8": 8, "a16": 16}
OPTIMS = {
    "a4": {"lr": 1e-3},
    "a8": {"lr": 3e-3, "schedule": "cosine", "weight_decay": 0.1, "max_grad_norm": 0.3},
    "a16": {"lr": 3e-4, "schedule": "constant", "warmup_ratio": 0.2, "beta2": 0.95, "max_grad_norm": 0.0},
}
NAMES = tuple(RANKS)


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_libraries()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Fits members of a config into ``tmp_path/<place>/<name>``, with checkpoints in ``<name>.work``."""

    def fit(config: TrainConfig, names: Sequence[str] = NAMES, place: str = "pack", **options: Any) -> dict[str, Any]:
        changes = options.pop("members", {})
        trial = Trial(config)
        members = []
        for name in names:
            own = changes.get(name, {})
            lora = LoraConfig(**{"r": RANKS[name], "lora_dropout": 0.0} | own.get("lora", {}))
            optim = OptimConfig(**OPTIMS[name] | own.get("optim", {}))
            folder = tmp_path / place
            members.append(Member(name, lora, optim, own.get("seed", 1), folder / name, folder / f"{name}.work"))
        data: Any = trial.data
        if any("seed" in own for own in changes.values()):
            data = {member.name: Trial(replace(config, seed=member.seed)).data for member in members}
        if len(names) == 1 and isinstance(data, dict):
            data = data[names[0]]
        return fit_adapters(trial.base, members, data, config.trainer, **options)

    return fit


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def differing(folder: Path, other: Path) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    ours, theirs = tensors(folder), tensors(other)
    assert ours.keys() == theirs.keys()
    return [key for key in ours if not torch.equal(ours[key], theirs[key])]


def assert_same_bits(folder: Path, other: Path) -> None:
    assert differing(folder, other) == []
    assert (folder / "curves.jsonl").read_text() == (other / "curves.jsonl").read_text()


def distance(folder: Path, other: Path) -> float:
    """Norm of the difference, as a part of the norm."""
    ours, theirs = (torch.cat([v.double().flatten() for _, v in sorted(tensors(f).items())]) for f in (folder, other))
    return float((ours - theirs).norm() / theirs.norm())


THIRTY = {"max_epochs": 8, "max_steps": 30, "log_every": 5}
# What else is different: of the config, of every member, of single members.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "dropout": ({}, {name: {"lora": {"lora_dropout": 0.2}} for name in NAMES[:2]}),
    "recomputed_with_dropout": (
        {"model": {"gradient_checkpointing": True}, "trainer": {"max_steps": 10}},
        {name: {"lora": {"lora_dropout": 0.2}} for name in NAMES},
    ),
    "bf16": ({"model": {"dtype": "bfloat16"}}, {"a8": {"lora": {"lora_dropout": 0.1}}}),
    "targets": (
        {"trainer": {"max_steps": 10}},
        {
            "a4": {"lora": {"target_modules": "attention"}},
            "a8": {"lora": {"target_modules": ["mlp", "lm_head"]}},
            "a16": {"lora": {"target_modules": "decoder_and_branch", "use_rslora": True}},
        },
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_pack_equals_its_adapters_alone(trial_config: Config, run: Run, tmp_path: Path, way: str) -> None:
    """Bit for bit, adapters, curves and facts, on one thread, against plain PEFT."""
    changes, members = copy.deepcopy(WAYS[way])
    changes["trainer"] = THIRTY | changes.get("trainer", {})
    config = trial_config(**changes)
    together = run(config, members=members)
    for name in NAMES:
        alone = run(config, [name], "alone", members=members)[name]
        assert_same_bits(tmp_path / "pack" / name, tmp_path / "alone" / name)
        timing = ("train_seconds", "pack")
        assert {k: v for k, v in together[name].items() if k not in timing} == {
            k: v for k, v in alone.items() if k not in timing
        }
        assert together[name]["pack"]["size"] == 3 and alone["pack"]["size"] == 1
        files = ("adapter_config.json", "data.json")
        for file in files:
            assert json.loads((tmp_path / "pack" / name / file).read_text()) == json.loads(
                (tmp_path / "alone" / name / file).read_text()
            )
