"""One way to fit an adapter outside the store, so that its work folder stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kimi_audio_ft.config.train import TrainConfig


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Fits a config's adapter into ``tmp_path/<name>/adapter`` with checkpoints in ``tmp_path/<name>/work``."""
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.trial import Trial

    quiet_libraries()

    def run(config: TrainConfig, name: str = "fit", on_row: Callable[..., None] | None = None) -> dict[str, Any]:
        trial = Trial(config)
        folder, work = tmp_path / name / "adapter", tmp_path / name / "work"
        return trial.fit(folder, work, on_row)

    return run
