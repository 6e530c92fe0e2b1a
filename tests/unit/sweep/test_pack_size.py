"""The search for a pack's size: what it measures, how it decides, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.sweep.pack_size import Probe, fastest_size, find_pack_size
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


@pytest.mark.slow
def test_real_steps_leave_no_trace(trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [Trial(trial_config(lora={"r": rank})) for rank in (2, 3)]
    model = trials[0].base.load()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.random.get_rng_state()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    size, facts = find_pack_size(trials)
    assert size in (1, 2)
    assert [one["size"] for one in facts["sizes"]] == [1, 2]
    assert all(one["tokens_per_second"] > 0 and one["peak_bytes"] > 0 for one in facts["sizes"])
    assert torch.equal(torch.random.get_rng_state(), stream)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], value) for key, value in before.items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not list(Path().iterdir())


def choose(measured: dict[int, Any], most: int, **limits: Any) -> tuple[int, list[int], str]:
    """Decides from given measurements by size: positions per second and bytes, or an exception."""

    def measure(size: int) -> Probe:
        value = measured[size]
        if isinstance(value, Exception):
            raise value
        return Probe(size, *value)

    size, facts = fastest_size(most, measure, **limits)
    return size, [one["size"] for one in facts["sizes"]], facts["ended"]


def test_the_fastest_wins() -> None:
    rates = {1: (100, 1), 2: (180, 1), 4: (300, 1), 6: (400, 1)}
    assert choose(rates, 6) == (6, [1, 2, 4, 6], "all sizes were tried")
    assert choose(rates, 1) == (1, [1], "all sizes were tried")
    rates[4] = (185, 1)
    assert choose(rates, 6) == (4, [1, 2, 4], "4 adapters are not faster than 2")


def test_solo_where_packing_does_not_pay() -> None:
    assert choose({1: (100, 1), 2: (103, 1)}, 8) == (1, [1, 2], "2 adapters are not faster than 1")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_ends_the_search(error: Exception) -> None:
    assert choose({1: (100, 1), 2: (180, 1), 4: error}, 8) == (2, [1, 2], "4 adapters did not fit into memory")
    assert choose({1: error}, 8) == (1, [], "1 adapters did not fit into memory")


def test_a_pack_may_not_need_nearly_all_of_the_memory() -> None:
    rates = {1: (100, 10), 2: (180, 20), 4: (300, 40)}
    assert choose(rates, 4, most_bytes=30) == (2, [1, 2], "4 adapters need nearly all of the memory")


def test_the_cpus_memory_is_not_filled() -> None:
    """Each adapter took 10 bytes; four more would take 40, and there are 40 of which a tenth is kept free."""
    rates = {1: (100, 10), 2: (180, 20), 4: (300, 40), 8: (500, 80)}
    assert choose(rates, 8, free_bytes=lambda: 40.0) == (4, [1, 2, 4], "8 adapters would not fit into memory")
    assert choose(rates, 8, free_bytes=lambda: 45.0)[0] == 8
