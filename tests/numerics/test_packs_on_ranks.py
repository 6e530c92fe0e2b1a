"""A pack on two CPU ranks (gloo): all hold every adapter and a part of each step; sums have another order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.runtime.workers import run_workers
from kimi_audio_ft.training.checkpoint import resume_step
from tests.numerics.pack_lab import NAMES, Lab, member
from tests.sameness import assert_within_rounding

Config = Callable[..., TrainConfig]
pytestmark = pytest.mark.slow

DROPOUT = {name: {"lora": {"lora_dropout": 0.2}} for name in NAMES}
BAD = {**DROPOUT, "a8": {"optim": {"lr": 1e30}}, "a16": {"lora": {"target_modules": "decoder_and_branch"}}}


@pytest.fixture(scope="module")
def sent(trial_config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Any]]]:
    """What two ranks said of two packs, and where each lies: one has a bad member, one is asked to stop."""
    two = trial_config(data={"batch_size": 3}, trainer={"accumulate": 2, "devices": 2, "strategy": "ddp"})
    found: dict[str, tuple[Path, list[Any]]] = {name: (tmp_path_factory.mktemp(name), []) for name in ("bad", "stops")}
    packs = {
        "bad": ([member(name, BAD, found["bad"][0] / "pack") for name in NAMES], None),
        "stops": ([member(name, DROPOUT, found["stops"][0] / "pack") for name in ("a4", "a8")], (1, 3)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        from rank_tasks import fit_packs

        run_workers(fit_packs, (two, packs), 2, lambda rank, message: found[message[0]][1].append(message[1]))
    return found


def test_two_ranks_equal_one(trial_config: Config, lab: Lab, sent: dict[str, tuple[Path, list[Any]]]) -> None:
    """With one member that fails on both at once, and one with parameters that never get a gradient."""
    one = trial_config(data={"batch_size": 3}, trainer={"accumulate": 4})
    lab.place, heard = sent["bad"]
    results = {(rank, name): value for rank, name, value in heard if not isinstance(value, int)}
    assert len(results) == 6
    assert all("training loss is nan" in results[rank, "a8"] for rank in (0, 1))
    for name in ("a4", "a16"):
        assert results[0, name]["steps"] == results[1, name]["steps"] == 4
        assert_within_rounding(lab.folder(name), lab.alone(one, name, BAD))


def test_one_rank_asks_and_all_stop(trial_config: Config, lab: Lab, sent: dict[str, tuple[Path, list[Any]]]) -> None:
    """At the same step; then one process goes on."""
    one = trial_config(data={"batch_size": 3}, trainer={"accumulate": 4})
    lab.place, heard = sent["stops"]
    assert sorted(value for value in heard if value[1] == "interrupted") == [
        (0, "interrupted", 3),
        (1, "interrupted", 3),
    ]
    assert resume_step([member(name, DROPOUT, lab.place / "pack").work for name in ("a4", "a8")]) == 3
    lab.run(one, ["a4", "a8"], DROPOUT)
    for name in ("a4", "a8"):
        assert_within_rounding(lab.folder(name), lab.alone(one, name, DROPOUT))
