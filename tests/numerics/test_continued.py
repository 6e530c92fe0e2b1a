"""A training that paused again and again, in whatever company, is the training that never did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.trial import Trial
from tests.sameness import assert_same, assert_same_bits

Fit = Callable[..., dict[str, Any]]

ADAPTERS = {
    "r2": (LoraConfig(r=2, lora_dropout=0.2), OptimConfig(lr=1e-3, schedule="constant")),
    "r4": (LoraConfig(r=4, lora_dropout=0.0), OptimConfig(lr=3e-3, schedule="cosine", warmup_ratio=0.2)),
    "r8": (LoraConfig(r=8, lora_dropout=0.1), OptimConfig(lr=2e-3, weight_decay=0.1)),
}


@pytest.fixture
def fit(trial_config: Callable[..., TrainConfig], tmp_path: Path) -> Fit:
    """Trains adapters into ``tmp_path/<place>/<name>`` for three epochs of 4 steps, or as many as ``accumulate`` makes.

    A learning rate that ends above zero would show every step too much.
    """
    quiet_libraries()

    def run(place: str, names: Sequence[str], until: int | None = None, accumulate: int = 2) -> dict[str, Any]:
        config = trial_config(trainer={"max_epochs": 3, "accumulate": accumulate})
        trial, folder = Trial(config), tmp_path / place
        members = [AdapterSpec(name, *ADAPTERS[name], 1, folder / name, folder / f"{name}.work") for name in names]
        return fit_adapters(trial.base, members, trial.data, config.trainer, until=until)

    return run


@pytest.mark.slow
def test_survivors_of_halving_equal_adapters_trained_straight_and_alone(fit: Fit, tmp_path: Path) -> None:
    """Three to the end of the first epoch, two of them into the second, one to the end."""
    rung = fit("halved", ["r2", "r4", "r8"], until=4)
    assert [rung[name]["paused"]["step"] for name in ADAPTERS] == [4, 4, 4]
    fit("halved", ["r2", "r8"], until=6)
    assert fit("halved", ["r2"])["r2"]["steps"] == fit("straight", ["r2"])["r2"]["steps"] == 12
    assert_same(tmp_path / "halved" / "r2", tmp_path / "straight" / "r2")
    assert not (tmp_path / "halved" / "r8" / "adapter_model.safetensors").exists()
    # One that was stopped goes on from there when a later sweep wants it.
    fit("halved", ["r8"])
    fit("straight", ["r8"])
    assert_same(tmp_path / "halved" / "r8", tmp_path / "straight" / "r8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate", "rungs"),
    [(2, [2, 4, 5, 8]), (8, [1, 2])],
    ids=["within epochs and at their ends", "epochs of one step"],
)
def test_pausing_more_than_once_changes_nothing(fit: Fit, tmp_path: Path, accumulate: int, rungs: list[int]) -> None:
    for until in rungs:
        assert fit("paused", ["r2"], until, accumulate)["r2"]["paused"]["step"] == until
    straight = fit("straight", ["r2"], None, accumulate)["r2"]["steps"]
    assert fit("paused", ["r2"], None, accumulate)["r2"]["steps"] == straight
    assert_same_bits(tmp_path / "paused" / "r2", tmp_path / "straight" / "r2")
