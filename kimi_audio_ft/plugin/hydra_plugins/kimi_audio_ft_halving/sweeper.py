"""``hydra/sweeper=halving``. Hydra imports this at every start, so nothing heavy is imported here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from kimi_audio_ft.engine.halving import Candidate, HalvingSettings, make_candidates
from kimi_audio_ft.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class HalvingConfig:
    """Options of successive halving; its candidates are the grid that the basic sweeper would run."""

    _target_: str = "hydra_plugins.kimi_audio_ft_halving.sweeper.HalvingSweeper"
    params: dict[str, str] | None = None  # Values to sweep over, as in the basic sweeper.
    rungs: list[Any] = field(default_factory=lambda: [0.25, 0.5])  # Optimizer steps, or fractions of the training.
    reduction_factor: float = 2.0  # Of n adapters that reach a rung, the best n / reduction_factor go on.
    metric: str = "cer"  # What decides: cer (greedy decoding of data.eval_manifest) or loss (on its answers).
    max_candidates: int | None = None  # Draw so many adapters from a larger grid; null takes all.
    seed: int = 1  # Of that draw.


ConfigStore.instance().store(group="hydra/sweeper", name="halving", node=HalvingConfig, provider="kimi_audio_ft")


class HalvingSweeper(BasicSweeper):
    """Trains all adapters of a grid together, stops the worse ones at every rung, and runs what is left."""

    def __init__(
        self,
        params: dict[str, str] | None,
        rungs: Sequence[int | float],
        reduction_factor: float,
        metric: str,
        max_candidates: int | None,
        seed: int,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.settings = HalvingSettings(tuple(rungs), reduction_factor, metric, max_candidates, seed)

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the sweep; as with Hydra's own, the first job that failed raises what ended it."""
        from kimi_audio_ft.engine.halving_record import Record, print_rung
        from kimi_audio_ft.engine.halving_sweep import run_rungs

        assert self.config is not None and self.hydra_context is not None
        launcher: Any = self.launcher
        if not hasattr(launcher, "train_until"):
            raise UserError(
                f"hydra/sweeper=halving: {type(launcher).__name__} cannot stop a training at a rung and go on from "
                "there. Write hydra/launcher=packed"
            )
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        [grid] = self.split_arguments(parsed, None)
        candidates = make_candidates(grid, self.settings.max_candidates, self.settings.seed)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        record = Record(folder, self.settings, len(grid))

        def on_rung(everyone: Sequence[Candidate], rung: int) -> None:
            record.write(everyone)
            print_rung(everyone, rung, self.settings)

        everyone = run_rungs(candidates, launcher, self.settings, on_rung)
        record.write(everyone)
        jobs = {place: job for one in everyone if one.is_alive for place, job in one.jobs.items()}
        log.info("%d of %d adapters train to their end", sum(one.is_alive for one in everyone), len(everyone))
        returns: Sequence[JobReturn] = launcher.launch([jobs[place] for place in sorted(jobs)], initial_job_idx=0)
        for returned in returns:
            _ = returned.return_value
        return [returns]
