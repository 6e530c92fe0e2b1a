"""A sweep of several adapters under FSDP, with halving, on two CPU ranks: the numbers of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

RANKS = "lora.r=2,4"
TWO = ("trainer.devices=2", "trainer.accelerator=cpu", "trainer.accumulate=1", "hydra.launcher.parallel=1")
HALVING = (
    *("hydra/sweeper=halving", "hydra.sweeper.rungs=[2]", "hydra.sweeper.reduction_factor=1.01"),
    "hydra.sweeper.metric=cer",
)


def losses(sweep: Path) -> dict[int, list[float]]:
    """Final losses by rank of the adapter."""
    table = json.loads((sweep / "trials.json").read_text(encoding="utf-8"))["trials"]
    return {row["params"]["lora.r"]: [row["final_train_loss"], row["final_val_loss"]] for row in table}


@pytest.fixture(scope="module")
def alone(new_workplace: Callable[[], Any]) -> dict[int, list[float]]:
    """The same adapters, with the same number of clips in a step, from one process."""
    found = losses(new_workplace().sweep("sweep", RANKS, "trainer.accumulate=2", "baseline=false"))
    assert sorted(found) == [2, 4]
    return found


def test_a_sharded_sweep_gives_the_numbers_of_one_process(workplace: Any, alone: dict[int, list[float]]) -> None:
    """One training after another, each in processes of its own; rungs are decoded by the task's process."""
    found = losses(workplace.sweep("sweep", RANKS, "trainer=fsdp", *TWO, *HALVING, "baseline=false"))
    assert sorted(found) == [2, 4]
    for rank, figures in alone.items():
        assert found[rank] == pytest.approx(figures, rel=1e-4)
