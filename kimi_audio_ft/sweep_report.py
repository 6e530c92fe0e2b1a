"""A Hydra callback that writes the report when a sweep ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from kimi_audio_ft.errors import UserError

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Runs ``multirun_analysis`` on the sweep's folder, so that one command ends in one report."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget an earlier sweep in the same folder; its products are in the store, so nothing is lost."""
        for name in ("scores.json", "baseline.json", "failure.json"):
            for path in Path(config.hydra.sweep.dir).glob(f"*/{name}"):
                path.unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report and print the leaderboard; a report that cannot be made must not hide the sweep's end."""
        from multirun_analysis.report import load_sweep, write_comparison
        from multirun_analysis.terminal import print_leaderboard

        folder = Path(config.hydra.sweep.dir)
        try:
            comparison = load_sweep(folder)
            paths = write_comparison(comparison)
            print_leaderboard(comparison)
        except UserError as error:
            log.warning("no report: %s", error)
            return
        print(f"report: {paths.html}")
