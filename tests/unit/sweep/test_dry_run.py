"""The words of a dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.cost.machines import MACHINES
from kimi_audio_ft.sweep.dry_run.prediction import Further, Prediction
from kimi_audio_ft.sweep.dry_run.run import lines
from kimi_audio_ft.sweep.dry_run.workload import Workload


@pytest.mark.parametrize(("peak", "told"), [(8_000_000_000, "about 2 h"), (None, "unknown: an adapter does not fit")])
def test_a_time_is_told_only_where_every_adapter_fits(private_store: Path, peak: int | None, told: str) -> None:
    work = Workload(4, 0, [], 0, 0, [], [], 0, 0.0, 0)
    prediction = Prediction(7200.0, 7000.0, 100.0, 0.0, 2, peak, 1_000_000, 500.0, None)
    settings = LauncherConfig(dry_run="4090", hours=1.0)
    said = lines(work, prediction, MACHINES["4090"], settings, Further())
    (time,) = [line for line in said if line.startswith("  time ")]
    assert told in time
    fits = peak is not None
    for word in ("device-hours", "positions a second", "more than hydra.launcher.hours=1"):
        assert any(word in line for line in said) == fits, word
