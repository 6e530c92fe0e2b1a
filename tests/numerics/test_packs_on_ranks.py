"""A pack on two CPU ranks (gloo): every rank holds all adapters and a part of every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.schema import TrainConfig
from kimi_audio_ft.store import read_jsonl
from kimi_audio_ft.training.checkpoint import resume_step
from kimi_audio_ft.workers import run_workers
from tests.numerics.pack_lab import NAMES, Lab, member, tensors

Config = Callable[..., TrainConfig]
pytestmark = pytest.mark.slow

DROPOUT = {name: {"lora": {"lora_dropout": 0.2}} for name in NAMES}
BAD = {**DROPOUT, "a8": {"optim": {"lr": 1e30}}, "a16": {"lora": {"target_modules": "decoder_and_branch"}}}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs ``rank_tasks.fit_pack`` on two ranks and gives what they sent."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from rank_tasks import fit_pack

    def run(*arguments: Any) -> list[Any]:
        sent: list[Any] = []
        run_workers(fit_pack, arguments, 2, lambda rank, value: sent.append(value))
        return sent

    return run


def assert_close(folder: Path, other: Path) -> None:
    """Equal up to the order of sums over ranks."""
    ours, theirs = read_jsonl(folder / "curves.jsonl"), read_jsonl(other / "curves.jsonl")
    assert [row | {"loss": 0} for row in ours] == [row | {"loss": 0} for row in theirs]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=2e-5)
    one, two = tensors(folder), tensors(other)
    assert one.keys() == two.keys()
    for name, value in two.items():
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_two_ranks_equal_one(trial_config: Config, lab: Lab, together: Callable[..., list[Any]]) -> None:
    """With one member that fails on both at once, and one with parameters that never get a gradient."""
    data = {"batch_size": 3}
    one = trial_config(data=data, trainer={"accumulate": 4})
    two = trial_config(data=data, trainer={"accumulate": 2, "devices": 2, "strategy": "ddp"})
    sent = together(two, [member(name, BAD, lab.place / "two") for name in NAMES])
    results = {(rank, name): value for rank, name, value in sent if not isinstance(value, int)}
    assert len(results) == 6
    assert all("training loss is nan" in results[rank, "a8"] for rank in (0, 1))
    for name in ("a4", "a16"):
        assert results[0, name]["steps"] == results[1, name]["steps"] == 4
        assert_close(lab.folder(name, "two"), lab.alone(one, name, BAD))


def test_one_rank_asks_and_all_stop(trial_config: Config, lab: Lab, together: Callable[..., list[Any]]) -> None:
    """At the same step; then one process goes on."""
    data = {"batch_size": 3}
    one = trial_config(data=data, trainer={"accumulate": 4})
    two = trial_config(data=data, trainer={"accumulate": 2, "devices": 2, "strategy": "ddp"})
    members = [member(name, DROPOUT, lab.place / "pack") for name in ("a4", "a8")]
    sent = together(two, members, (1, 3))
    assert sorted(value for value in sent if value[1] == "interrupted") == [
        (0, "interrupted", 3),
        (1, "interrupted", 3),
    ]
    assert resume_step([one.work for one in members]) == 3
    lab.run(one, ["a4", "a8"], DROPOUT)
    for name in ("a4", "a8"):
        assert_close(lab.folder(name), lab.alone(one, name, DROPOUT))
