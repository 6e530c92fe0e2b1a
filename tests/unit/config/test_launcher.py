from __future__ import annotations

from typing import Any

import pytest

from kimi_audio_ft.config.launcher import MACHINES, LauncherConfig, RayConfig, SlurmConfig
from kimi_audio_ft.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_minutes": 0}, r"slurm\.time_minutes=0: must be 1 or more"),
        ({"cpus_per_task": 0}, r"slurm\.cpus_per_task=0"),
        ({"mem_gb": 0.0}, r"slurm\.mem_gb=0\.0: must be more than 0"),
        ({"max_requeues": -1}, r"slurm\.max_requeues=-1"),
        ({"time_minutes": 2, "signal_seconds": 120}, r"signal_seconds=120: must be less than the time limit"),
        ({"extra": {"requeue": False}}, r"slurm\.extra='requeue': is set by the executor"),
        ({"extra": {"open_mode": "truncate"}}, r"slurm\.extra='open_mode': is set by the executor"),
        ({"extra": {"mem": "3G"}}, r"Set hydra\.launcher\.slurm\.mem_gb"),
        ({"extra": {"wckey=1\nrm -rf": "x"}}, r"must be sbatch's long name"),
    ],
)
def test_what_slurm_cannot_be_asked_for(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SlurmConfig(**options)


def test_further_options_of_slurm() -> None:
    extra = {"constraint": "a100", "mail_type": "END"}
    assert SlurmConfig(extra=extra).extra == extra


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_cpus_per_pack": 0}, r"ray\.num_cpus_per_pack=0: must be more than 0"),
        ({"max_restarts": -1}, r"ray\.max_restarts=-1"),
        ({"resources": {"GPU": 1}}, r"ray\.resources='GPU': must be a custom resource.*gpus_per_pack"),
        ({"resources": {"disk": 0}}, r"ray\.resources\.disk=0"),
    ],
)
def test_what_ray_cannot_be_asked_for(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RayConfig(**options)


@pytest.mark.parametrize("hours", [0, -1.0, float("nan"), float("inf")])
def test_hours_are_more_than_none(hours: float) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.hours=.*: must be a number of hours greater than 0"):
        LauncherConfig(hours=hours)


def test_dry_runs_are_of_machines_that_are_known() -> None:
    assert [LauncherConfig(dry_run=name).dry_run for name in (False, True, *MACHINES, 4090)][-1] == "4090"
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.dry_run='v100': must be true .* h100, a100, 4090, laptop"):
        LauncherConfig(dry_run="v100")
