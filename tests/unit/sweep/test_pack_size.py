"""The search for a pack's size: what it measures, how it decides, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import LoraConfig, OptimConfig, TrainConfig
from kimi_audio_ft.sweep import pack_size
from kimi_audio_ft.sweep.pack_size import Probe, find_pack_size
from kimi_audio_ft.training.adapters import Member
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


def members(count: int, folder: Path) -> list[Member]:
    lora, optim = LoraConfig(r=2), OptimConfig()
    return [Member(f"m{i}", lora, optim, 1, folder / f"m{i}", folder / f"m{i}.work") for i in range(count)]


def test_real_steps_leave_no_trace(trial_config: Config, tmp_path: Path) -> None:
    config = trial_config()
    trial = Trial(config)
    model = trial.base.load()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.random.get_rng_state()
    size, facts = find_pack_size(trial.base, members(2, tmp_path / "x"), trial.data, config.trainer)
    assert size in (1, 2)
    assert [one["size"] for one in facts["sizes"]] == [1, 2]
    assert all(one["tokens_per_second"] > 0 and one["peak_bytes"] > 0 for one in facts["sizes"])
    assert torch.equal(torch.random.get_rng_state(), stream)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], value) for key, value in before.items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not (tmp_path / "x").exists()


@pytest.fixture
def choose(trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Decides from given measurements by size: positions per second and bytes, or an exception."""

    def run(count: int, measured: dict[int, Any]) -> tuple[int, list[int], str]:
        def stand_in(base: Any, some: Sequence[Member], *rest: Any) -> Probe:
            value = measured[len(some)]
            if isinstance(value, Exception):
                raise value
            return Probe(len(some), *value)

        monkeypatch.setattr(pack_size, "_probe", stand_in)
        config = trial_config()
        size, facts = find_pack_size(Trial(config).base, members(count, tmp_path), None, config.trainer)  # type: ignore[arg-type]
        return size, [one["size"] for one in facts["sizes"]], facts["ended"]

    return run


def test_the_fastest_wins(choose: Callable[..., Any]) -> None:
    rates = {1: (100, 1), 2: (180, 1), 4: (300, 1), 6: (400, 1)}
    assert choose(6, rates) == (6, [1, 2, 4, 6], "all sizes were tried")
    assert choose(1, rates) == (1, [1], "all sizes were tried")
    rates[4] = (185, 1)
    assert choose(6, rates) == (4, [1, 2, 4], "4 adapters are not faster than 2")


def test_solo_where_packing_does_not_pay(choose: Callable[..., Any]) -> None:
    assert choose(8, {1: (100, 1), 2: (103, 1)}) == (1, [1, 2], "2 adapters are not faster than 1")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), MemoryError()])
def test_out_of_memory_ends_the_search(choose: Callable[..., Any], error: Exception) -> None:
    assert choose(8, {1: (100, 1), 2: (180, 1), 4: error}) == (2, [1, 2], "4 adapters did not fit into memory")
    assert choose(8, {1: error}) == (1, [], "1 adapters did not fit into memory")


def test_the_cpus_memory_is_not_filled(choose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each adapter took 10 bytes; four more would take 40, and there are 40 of which a tenth is kept free."""
    monkeypatch.setattr(pack_size, "_available", lambda: 40.0)
    rates = {1: (100, 10), 2: (180, 20), 4: (300, 40), 8: (500, 80)}
    assert choose(8, rates) == (4, [1, 2, 4], "8 adapters would not fit into memory")
    monkeypatch.setattr(pack_size, "_available", lambda: 45.0)
    assert choose(8, rates)[0] == 8
