"""The ladder's arithmetic: a sweep's cost on the rungs of the published code, from the parts of one trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.bench_sweep import mean_of
from experiments.sweep_ladder.rungs import Costs
from experiments.sweep_ladder.workload import Workload

PARTS = {"start": 1.0, "step": 2.0, "validation": 3.0, "load": 4.0, "utterance": 5.0}


@pytest.mark.parametrize(
    ("rung", "wall", "cpu"),
    [
        ("0", 36 * (1 + 10 * 2 + 4 * 3 + 4 + 2 * 5), 36 * 47),
        ("0a", 36 * (1 + 10 * 2 + 4 + 2 * 5), 36 * 35),
        ("0b", 9 * (1 + 10 * 2 + 4 * 3 + 4) + 36 * 2 * 5, 9 * 37 + 360),
        ("0c", 5 * (1 + 10 * 2 + 4 * 3 + 4 + 4 * 2 * 5), 9 * 37 + 360),  # the second core has four adapters
    ],
)
def test_the_published_code_as_it_is_used_and_used_well(rung: str, wall: float, cpu: float) -> None:
    """36 trials are 9 adapters at 4 temperatures: 10 steps, 4 validations, 2 utterances."""
    work = Workload("tiny", Path(), "tiny", recordings=1, epochs=4, max_new_tokens=1)
    parts = {name: {"wall": value, "cpu": value} for name, value in PARTS.items()}
    cost = Costs(work, {"published": parts, "both_cores": parts}, steps=10, utterances=2).of(rung)
    assert cost is not None
    assert (cost.wall, cost.cpu) == (pytest.approx(wall), pytest.approx(cpu))


def test_processes_side_by_side_count_with_their_mean() -> None:
    found = [{"step": {"wall": wall, "cpu": 1.0}, "losses": [wall]} for wall in (2.0, 4.0)]
    assert mean_of(found) == {"step": {"wall": 3.0, "cpu": 1.0}, "losses": [2.0]}
