"""Messages about Slurm's refusals, waiting jobs and ends; preempted jobs."""

from __future__ import annotations

import pytest

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.sweep.cluster.slurm import JobRequest, being_preempted, end_of

REQUEST = JobRequest(SlurmConfig(partition="gpu", cpus_per_task=64, extra={"constraint": "a100"}), 2)


def test_a_refusal_has_the_options_their_values_and_where_to_look() -> None:
    said = REQUEST.refused("Invalid partition name specified")
    assert said.startswith("hydra.launcher.slurm: sbatch refused the job: Invalid partition name specified. Asked for")
    assert "partition=gpu, time_minutes=240, cpus_per_task=64, extra.constraint=a100 and 2 GPUs" in said
    assert "account" not in said and "sinfo" in said


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: fatal: Could not establish a configuration source",
        "sbatch: fatal: Unable to process configuration file",
    ],
)
def test_a_controller_out_of_reach_is_not_a_refusal(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    told = REQUEST.refused(said)
    assert said in told and "SLURM_CONF is not set" in told and "partition" not in told


def test_only_unusual_reasons_to_wait_are_told() -> None:
    assert REQUEST.waits("7", "Resources") is None
    assert REQUEST.waits("7", "ReqNodeNotAvail") == "Slurm job 7 waits: ReqNodeNotAvail"
    said = REQUEST.waits("7", "PartitionTimeLimit")
    assert said is not None and "will never start" in said and "time_minutes=240" in said and "Ctrl-C" in said


def test_ends_are_told_apart() -> None:
    assert end_of("7", "RUNNING") is end_of("7", "PENDING") is None
    fates = {state: end.fate for state in ("FAILED", "TIMEOUT", "CANCELLED") if (end := end_of("7", state))}
    assert fates == {"FAILED": "died", "TIMEOUT": "lost", "CANCELLED": "cancelled"}
    memory = end_of("7", "OUT_OF_MEMORY")
    assert memory is not None and "raise hydra.launcher.slurm.mem_gb" in memory.reason


# As Slurm 22.05 writes it.
JOB = """JobId=1 JobName=kimi_audio_ft task-0
   JobState={state} Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   PreemptEligibleTime=2026-11-24T18:39:29 PreemptTime={preempted}
   Comment=a=b
"""


@pytest.mark.parametrize(
    ("state", "preempted", "expected"),
    [
        ("RUNNING", "2026-11-24T18:39:30", True),
        ("RUNNING", "None", False),
        ("COMPLETING", "None", False),  # cancelled, or requeued by a person
        ("COMPLETING", "2026-11-24T18:39:30", False),  # Slurm has it back already
    ],
)
def test_only_a_preempted_job_is_queued_again_by_itself(state: str, preempted: str, expected: bool) -> None:
    assert being_preempted(JOB.format(state=state, preempted=preempted)) is expected
    assert not being_preempted("")
