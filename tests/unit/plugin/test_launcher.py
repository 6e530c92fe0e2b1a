"""Hydra's own tests of launchers, on the packed one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite

import kimi_audio_ft

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_hydra_tests_itself(hydra_restore_singletons: None) -> None:
    """Hydra's suites expect the defaults of an app that names no version, whatever ran before in this process."""
    version.setbase("1.1")


PLUGINS = Path(kimi_audio_ft.__file__).parent / "plugin"


def test_hydra_finds_the_launcher() -> None:
    assert "PackedLauncher" in [found.__name__ for found in Plugins.instance().discover(Launcher)]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("packed", [])])
class TestPackedLauncher(LauncherTestSuite):
    """Runs what Hydra asks of every launcher."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("packed", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])],
)
class TestPackedLauncherInBatches(BatchedSweeperTestSuite):
    """The same for sweepers that launch in batches."""


@pytest.mark.slow
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=packed"])])
class TestPackedLauncherFromTheCommandLine(IntegrationTestSuite):
    """Applications started by Hydra's tests as processes of their own, which do not import our package."""

    test_custom_task_name = None  # Hydra gives a job its name before it launches any

    @pytest.fixture(autouse=True)
    def _plugins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{PLUGINS}{os.pathsep}{PLUGINS.parents[1]}")
