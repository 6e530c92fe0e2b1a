"""The options of clusters, without any cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import TrainConfig, TrainerConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.sweep.cluster.executor import local_slots, make_supervisor
from kimi_audio_ft.sweep.plan import Unit


@pytest.fixture
def units() -> list[Unit]:
    return [Unit("a1", [TrainConfig()])]


def test_a_missing_package_is_named(units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = r'executor=ray: the package ray is missing\. Run pip install -e "\.\[cluster\]"'
    with pytest.raises(UserError, match=words):
        make_supervisor(LauncherConfig(executor="ray"), units, tmp_path)


def test_a_machine_without_slurm_says_so(units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no sbatch on PATH.*executor=local"):
        make_supervisor(LauncherConfig(executor="slurm"), units, tmp_path)


def test_gpus_of_another_machine_are_not_counted_here(tmp_path: Path) -> None:
    units = [Unit("a1", [TrainConfig(trainer=TrainerConfig(strategy="ddp"))])]
    with pytest.raises(ConfigError, match=r"gpus_per_pack='auto'.*Give a number"):
        make_supervisor(LauncherConfig(executor="slurm"), units, tmp_path)


def test_more_gpus_for_a_pack_than_there_are_is_refused(units: list[Unit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.gpus_per_pack=4: asks for more .*\(2\)\. Set .*=auto"):
        local_slots(LauncherConfig(gpus_per_pack=4), units)
