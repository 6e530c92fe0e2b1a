"""Two CPU ranks have the numbers of one process: a halving sweep under FSDP, and decoding after DDP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.runtime.workers import run_workers
from tests.integration.conftest import SHORT

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


def test_a_ddp_trial_decodes_on_both_devices_as_on_one(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(task: Any, arguments: Any, count: int, *rest: Any, **options: Any) -> None:
        counts.append(count)
        run_workers(task, arguments, count, *rest, **options)

    def transcripts() -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in workplace.store.glob("transcript/*/transcripts.jsonl")}

    monkeypatch.setattr("kimi_audio_ft.decoding.shares.ROWS_PER_PROCESS", 1)
    monkeypatch.setattr("kimi_audio_ft.decoding.shares.run_workers", counted)
    decoding = ("decoding=sampled", "decoding.repeats=2", "decoding.batch_size=2", "decoding.max_new_tokens=8")
    trial = ("trainer=ddp", *TWO[:3], "baseline=false", "hydra.run.dir=trial")
    workplace.succeed("kimi_audio_ft.train", *SHORT, *decoding, *trial)
    both = transcripts()
    assert counts == [2] and len(both) == 2
    shutil.rmtree(workplace.store / "transcript")
    [adapter] = workplace.products("adapter")
    options = ("data.eval_manifest=data/eval.tokens.jsonl", "trainer.progress=false", "hydra.run.dir=alone")
    workplace.succeed("kimi_audio_ft.evaluate", *options, *decoding, f"adapter={adapter}")
    assert transcripts() == both and counts == [2]
