"""The launcher by which a sweep's adapters are decoded after its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.sweep.confirm.decoding import launcher_of
from tests.synthetic_sweep import write_yaml

SLURM = {"executor": "slurm", "parallel": 20, "gpus_per_pack": 2, "slurm": {"partition": "long"}}


def recorded(folder: Path, launcher: Any) -> Path:
    write_yaml(folder / "multirun.yaml", {"hydra": {"launcher": launcher}})
    return folder


def test_the_launcher_is_the_sweeps_own(tmp_path: Path) -> None:
    found = launcher_of(recorded(tmp_path, {"_target_": LauncherConfig._target_, **SLURM}))
    assert (found.executor, found.parallel, found.gpus_per_pack, found.slurm.partition) == ("slurm", 20, 2, "long")
    assert launcher_of(tmp_path, "slurm") == found


def test_another_executor_counts_its_own_places(tmp_path: Path) -> None:
    """Twenty jobs of a cluster are no twenty processes of this machine."""
    found = launcher_of(recorded(tmp_path, {"_target_": LauncherConfig._target_, **SLURM}), "local")
    assert (found.executor, found.parallel, found.gpus_per_pack, found.slurm.partition) == (
        *("local", "auto", "auto", "long"),
    )


@pytest.mark.parametrize("launcher", [None, "packed", {"_target_": "another.Launcher", **SLURM}])
def test_where_it_is_none_of_ours_this_machine_decodes(tmp_path: Path, launcher: Any) -> None:
    assert launcher_of(tmp_path) == launcher_of(recorded(tmp_path, launcher)) == LauncherConfig()
    assert launcher_of(tmp_path, "ray").executor == "ray"
    write_yaml(tmp_path / "multirun.yaml", {"hydra": None})
    assert launcher_of(tmp_path) == LauncherConfig()


def test_a_record_that_cannot_be_used(tmp_path: Path) -> None:
    recorded(tmp_path, {"_target_": LauncherConfig._target_, "no_option": 1})
    with pytest.raises(DataError, match=r"(?s)multirun\.yaml: hydra\.launcher cannot be used .*Run the sweep again"):
        launcher_of(tmp_path)
    recorded(tmp_path, {"_target_": LauncherConfig._target_, "executor": "pbs"})
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.executor='pbs': must be one of local, slurm, ray"):
        launcher_of(tmp_path)
