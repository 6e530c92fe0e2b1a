"""Messages about Slurm's refusals, waiting jobs and ends."""

from __future__ import annotations

import pytest

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.sweep.cluster.slurm import asked_for, end_of, refusal, waiting

ASKED = asked_for(SlurmConfig(partition="gpu", extra={"constraint": "a100"}), 2)


def test_a_refusal_has_the_options_their_values_and_where_to_look() -> None:
    said = refusal("Invalid partition name specified", ASKED)
    assert said.startswith("hydra.launcher.slurm: sbatch refused the job: Invalid partition name specified. Asked for")
    assert "partition=gpu, time_minutes=240, cpus_per_task=4, extra.constraint=a100 and 2 GPUs" in said
    assert "account" not in said and "sinfo" in said


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: fatal: Could not establish a configuration source",
        "sbatch: fatal: Unable to process configuration file",
        "Command '('sbatch', '--parsable')' timed out after 60 seconds",
    ],
)
def test_a_controller_out_of_reach_is_not_a_refusal(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    told = refusal(said, ASKED)
    assert said in told and "SLURM_CONF is not set" in told and "partition" not in told


def test_only_unusual_reasons_to_wait_are_told() -> None:
    assert waiting("7", "Resources", ASKED) is None
    assert waiting("7", "ReqNodeNotAvail", ASKED) == "Slurm job 7 waits: ReqNodeNotAvail"
    said = waiting("7", "PartitionTimeLimit", ASKED)
    assert said is not None and "will never start" in said and "time_minutes=240" in said and "Ctrl-C" in said


def test_ends_are_told_apart() -> None:
    assert end_of("7", "RUNNING") is end_of("7", "PENDING") is None
    states = ("FAILED", "TIMEOUT", "PREEMPTED", "COMPLETED", "CANCELLED", "no longer known to Slurm")
    assert [end.fate for state in states if (end := end_of("7", state))] == [
        *("died", "lost", "lost", "lost", "cancelled", "died")
    ]
    memory, node = end_of("7", "OUT_OF_MEMORY"), end_of("7", "NODE_FAIL")
    assert memory is not None and memory.reason.endswith("OUT_OF_MEMORY (raise hydra.launcher.slurm.mem_gb)")
    assert node is not None and node.reason == "Slurm job 7 ended as NODE_FAIL"
