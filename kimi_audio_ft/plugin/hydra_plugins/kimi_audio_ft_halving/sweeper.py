"""``hydra/sweeper=halving``. Hydra imports this at every start, so nothing heavy is imported here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra_plugins.kimi_audio_ft_finalists.sweeper import FinalistsSweeper

from kimi_audio_ft.config.launcher import HalvingConfig, is_dry_run
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.halving import Candidate, make_candidates, run_rungs

log = logging.getLogger(__name__)


ConfigStore.instance().store(group="hydra/sweeper", name="halving", node=HalvingConfig, provider="kimi_audio_ft")


class HalvingSweeper(FinalistsSweeper):
    """Trains all adapters of a grid together, stops the worse ones at every rung, and runs what is left."""

    schema = HalvingConfig

    def _sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from kimi_audio_ft.sweep.finalists import launch_finalists
        from kimi_audio_ft.sweep.halving_run import HalvingRecord, print_rung

        assert self.config is not None
        launcher: Any = self.launcher
        if not hasattr(launcher, "train_until"):
            raise UserError(
                f"hydra/sweeper=halving: {type(launcher).__name__} cannot stop a training at a rung and continue "
                "it later. Write hydra/launcher=packed"
            )
        grid = self.grid(arguments)
        candidates = make_candidates(grid, self.settings.max_candidates, self.settings.seed)
        if is_dry_run(self.config):
            launcher.launch([job for one in candidates for job in one.jobs.values()], initial_job_idx=0)
        record = HalvingRecord(Path(self.config.hydra.sweep.dir), self.settings, len(grid))

        def on_rung(everyone: Sequence[Candidate], rung: int) -> None:
            record.write(everyone)
            records.decided(everyone, rung)
            print_rung(everyone, rung, self.settings)

        with launcher.record_all([job for one in candidates for job in one.jobs.values()]) as records:
            everyone = run_rungs(candidates, launcher, self.settings, on_rung)
            record.write(everyone)
            jobs = {index: job for one in everyone if one.is_alive for index, job in one.jobs.items()}
            log.info("%d of %d adapters train to their end", sum(one.is_alive for one in everyone), len(everyone))
            left = [jobs[index] for index in sorted(jobs)]
            returns: Sequence[JobReturn] = launcher.launch(left, initial_job_idx=0)
        further = launch_finalists(launcher, left, returns, self.settings)
        for returned in [*returns, *further]:
            _ = returned.return_value
        return [returns, further]
