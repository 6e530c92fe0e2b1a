"""Members of packs for the comparisons: fitted together, and alone once for all tests that compare with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig, OptimConfig, TrainConfig
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.lora.pack import BIT_FOR_BIT, Pack
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.trial import Trial
from tests.numerics.closeness import UNIT, assert_losses_close

# Three adapters that differ in all that may differ in a pack; their defaults, which a test's ``changes`` change.
LORAS: dict[str, dict[str, Any]] = {
    name: {"r": r, "lora_dropout": 0.0} for name, r in (("a4", 4), ("a8", 8), ("a16", 16))
}
OPTIMS: dict[str, dict[str, Any]] = {
    "a4": {"lr": 1e-3, "max_grad_norm": 0.1},
    "a8": {"lr": 3e-3, "schedule": "cosine", "weight_decay": 0.1, "max_grad_norm": 0.3},
    "a16": {"lr": 3e-4, "schedule": "constant", "warmup_ratio": 0.2, "beta2": 0.95, "max_grad_norm": 0.01},
}
NAMES = tuple(LORAS)
# How far adapters may be apart where only the order of sums differs, as a part of their norm, and so their losses.
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-2}
LOSS_UNITS = {"float32": 16, "bfloat16": 1e-2 / UNIT}
Changes = Mapping[str, Mapping[str, Any]]


def member(name: str, changes: Changes, folder: Path) -> AdapterSpec:
    """A member that writes into ``folder/<name>``, with checkpoints in ``folder/<name>.work``."""
    own = changes.get(name, {})
    lora = LoraConfig(**LORAS[name] | own.get("lora", {}))
    optim = OptimConfig(**OPTIMS[name] | own.get("optim", {}))
    return AdapterSpec(name, lora, optim, own.get("seed", 1), folder / name, folder / f"{name}.work")


class Lab:
    """Fits members of a config."""

    def __init__(self, root: Path, place: Path) -> None:
        self.root, self.place = root, place
        self.facts: dict[Path, dict[str, Any]] = {}

    def folder(self, name: str, place: str = "pack") -> Path:
        """Where ``run`` puts a member's adapter."""
        return self.place / place / name

    def run(
        self, config: TrainConfig, names: Sequence[str], changes: Changes, place: str = "pack", **options: Any
    ) -> dict[str, Any]:
        """Fit members together (one alone: by plain PEFT). Other seeds have other data."""
        trial = Trial(config)
        members = [member(name, changes, self.place / place) for name in names]
        data: Any = trial.data
        if any(one.seed != config.seed for one in members):
            data = {one.name: Trial(replace(config, seed=one.seed)).data for one in members}
        return fit_adapters(trial.base, members, data, config.trainer, **options)

    def alone(self, config: TrainConfig, name: str, changes: Changes) -> Path:
        """The adapter of a member that was trained alone by plain PEFT, at some time."""
        key = f"{config} {name} {changes.get(name)}"
        place = self.root / f"{name}_{abs(hash(key))}"
        if place / name not in self.facts:
            one = member(name, changes, place)
            data = Trial(replace(config, seed=one.seed)).data
            result = fit_adapters(Trial(config).base, [one], data, config.trainer)[name]
            assert isinstance(result, dict), result
            self.facts[place / name] = result
        return place / name


def tensors(folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors."""
    return load_file(folder / "adapter_model.safetensors")


def differing(folder: Path, other: Path) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    ours, theirs = tensors(folder), tensors(other)
    assert ours.keys() == theirs.keys()
    return [key for key in ours if not torch.equal(ours[key], theirs[key])]


def assert_same_bits(folder: Path, other: Path) -> None:
    """The same adapter and the same curves."""
    assert differing(folder, other) == []
    assert (folder / "curves.jsonl").read_text() == (other / "curves.jsonl").read_text()


@cache
def packs_are_exact(dtype: str = "float32") -> bool:
    """Whether packs over the embedded model promise the bits of a training alone, on this processor."""
    base = Base(ModelConfig(dtype=dtype), "none", "cpu")
    with (
        base.new_adapters({name: (LoraConfig(), 1) for name in "xy"}) as model,
        closing(Pack(model, ["x", "y"], "slice")) as pack,
    ):
        return pack.equals_alone() == BIT_FOR_BIT


def assert_same(folder: Path, other: Path, dtype: str = "float32") -> None:
    """The same bits where packs promise them; elsewhere the same within rounding, which steps of AdamW magnify."""
    if packs_are_exact(dtype):
        assert_same_bits(folder, other)
    else:
        assert_within_rounding(folder, other, dtype)


def assert_within_rounding(folder: Path, other: Path, dtype: str = "float32") -> None:
    """Adapters whose difference is small beside them, and curves that differ in the last places of losses."""
    assert tensors(folder).keys() == tensors(other).keys()
    assert distance(folder, other) < ROUNDING[dtype]
    ours, theirs = (read_jsonl(place / "curves.jsonl") for place in (folder, other))
    assert [row | {"loss": 0} for row in ours] == [row | {"loss": 0} for row in theirs]
    assert_losses_close([row["loss"] for row in ours], [row["loss"] for row in theirs], LOSS_UNITS[dtype])


def is_another(folder: Path, other: Path) -> bool:
    """Whether ``assert_same`` sees a difference."""
    try:
        assert_same(folder, other)
    except AssertionError:
        return True
    return False


def distance(folder: Path, other: Path) -> float:
    """Norm of the difference of two adapters, as a part of the norm."""
    one, two = (torch.cat([v.double().flatten() for _, v in sorted(tensors(f).items())]) for f in (folder, other))
    return float((one - two).norm() / two.norm())
