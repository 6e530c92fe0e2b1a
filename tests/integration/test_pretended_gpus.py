"""Commands on pretended GPUs: every process that they start sees the same cards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.forkserver import fork_command
from tests.pretend_gpu import ILLEGAL_ACCESS, MB, VARIABLE

pytestmark = pytest.mark.slow

Sweep = Callable[..., str]


@pytest.fixture
def sweep(coded_manifests: Path, private_store: Path, tmp_path: Path) -> Sweep:
    """Runs a sweep to its end and returns all that it printed; further arguments make the pretended machine."""

    def run(*overrides: str, environment: dict[str, str] | None = None, **machine: Any) -> str:
        arguments = (
            *("-m", f"data.train_manifest={coded_manifests}/train.jsonl", "data.features=none", "logger=none"),
            *(f"data.eval_manifest={coded_manifests}/eval.jsonl", "trainer.max_steps=1", "decoding.max_new_tokens=2"),
            *("baseline=false", "data.batch_size=4", "hydra.sweep.dir=sweep", *overrides),
        )
        pretended = {VARIABLE: json.dumps(machine), "KIMI_AUDIO_FT_STORE": str(private_store)}
        said = tmp_path / "said.log"
        process = fork_command(
            "kimi_audio_ft.train", arguments, tmp_path, os.environ | pretended | (environment or {}), said
        )
        process.join()
        packs = tmp_path / "sweep" / "packs.log"
        printed = said.read_text() + (packs.read_text() if packs.is_file() else "")
        assert process.exitcode == 0, printed
        return printed

    return run


def adapters(store: Path) -> int:
    return len(list(store.glob("adapter/[!.]*/product.json")))


def test_packs_on_two_cards_of_little_memory_are_all_made(sweep: Sweep, private_store: Path) -> None:
    """Four cards are named; the driver shows two, and each holds one adapter of the two in its pack."""
    printed = sweep(
        *("lora.r=2,4", "hydra.launcher.pack_size=2", "data.pass_positions=100000"),  # a step is one pass
        environment={"CUDA_VISIBLE_DEVICES": "0,1,2,3", "LOCAL_RANK": "1"}, count=2, memory=18 * MB,
    )  # fmt: skip
    assert adapters(private_store) == 2 and "a pack of 2 broke" in printed and "out of memory" in printed


def test_an_illegal_access_costs_one_process(sweep: Sweep, private_store: Path, tmp_path: Path) -> None:
    fault = {"message": ILLEGAL_ACCESS, "after": 1500, "sticky": True, "once": str(tmp_path / "happened")}
    printed = sweep("lora.r=2,4", "hydra.launcher.pack_size=2", fault=fault)
    assert adapters(private_store) == 2 and ILLEGAL_ACCESS in printed


def test_decoding_uses_both_cards_and_outlives_one_that_breaks(
    coded_manifests: Path, private_store: Path, tmp_path: Path
) -> None:
    used, broke, said = tmp_path / "used", tmp_path / "broke", tmp_path / "said.log"
    used.mkdir()
    fault = {"message": ILLEGAL_ACCESS, "after": 1000, "sticky": True, "once": str(broke)}
    machine = {VARIABLE: json.dumps({"count": 2, "fault": fault, "used": str(used)})}
    arguments = (
        *(f"data.eval_manifest={coded_manifests}/eval.jsonl", "data.features=none", "trainer=ddp", "hydra.run.dir=run"),
        *("decoding=sampled", "decoding.repeats=15", "decoding.max_new_tokens=2", "decoding.batch_size=2"),
    )
    process = fork_command("kimi_audio_ft.evaluate", arguments, tmp_path, os.environ | machine, said)
    process.join()
    assert process.exitcode == 0, said.read_text()
    assert broke.exists() and "died" in said.read_text()
    assert {"0.topk", "1.topk"} <= {path.name for path in used.iterdir()}
    assert len(list(private_store.glob("transcript/[!.]*/product.json"))) == 15


def test_more_processes_of_torchrun_than_gpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("")
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "WORLD_SIZE": "2"}
    group["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    logs = [tmp_path / f"rank{rank}.log" for rank in range(2)]
    processes = [
        fork_command(
            "kimi_audio_ft.tokenize", ["manifests=[m.jsonl]"], tmp_path,
            os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), VARIABLE: json.dumps({"count": 1})}, log,
        )
        for rank, log in enumerate(logs)
    ]  # fmt: skip
    for process in processes:
        process.join()
    assert processes[0].exitcode != 0 and processes[1].exitcode == 2
    assert (
        "LOCAL_RANK=1: this process is to use GPU 1" in logs[1].read_text() and "Traceback" not in logs[1].read_text()
    )
