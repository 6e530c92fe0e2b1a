"""Members of packs for the comparisons: fitted together, and alone once for all tests that compare with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.train import LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.trial import Trial

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
        """Fit members together. Other seeds have other data."""
        trial = Trial(config)
        members = [member(name, changes, self.place / place) for name in names]
        data: Any = trial.data
        if any(one.seed != config.seed for one in members):
            data = {one.name: Trial(replace(config, seed=one.seed)).data for one in members}
        return fit_adapters(trial.base, members, data, config.trainer, **options)

    def alone(self, config: TrainConfig, name: str, changes: Changes, plain: bool = False) -> Path:
        """The adapter of a member that was trained alone, at some time; ``plain``: by PEFT's and transformers' code."""
        key = f"{config} {name} {changes.get(name)} {plain}"
        place = self.root / f"{name}_{abs(hash(key))}"
        if place / name not in self.facts:
            one = member(name, changes, place)
            data = Trial(replace(config, seed=one.seed)).data
            base = replace(Trial(config).base, plain=plain)
            result = fit_adapters(base, [one], data, config.trainer)[name]
            assert isinstance(result, dict), result
            self.facts[place / name] = result
        return place / name
