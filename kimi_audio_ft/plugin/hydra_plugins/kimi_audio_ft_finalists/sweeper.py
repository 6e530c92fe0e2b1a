"""``hydra/sweeper=finalists`` and ``listed``. Hydra imports this at every start, so nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from kimi_audio_ft.config.launcher import FinalistsConfig, FurtherSeeds, ListedConfig, is_dry_run
from kimi_audio_ft.config.trial_list import with_trials

for name, node in (("finalists", FinalistsConfig), ("listed", ListedConfig)):
    ConfigStore.instance().store(group="hydra/sweeper", name=name, node=node, provider="kimi_audio_ft")


class FinalistsSweeper(BasicSweeper):
    """Hydra's basic sweeper, also of listed trials, which then trains the best settings with further seeds."""

    schema: ClassVar[type[FurtherSeeds]] = FinalistsConfig

    def __init__(self, **options: Any) -> None:
        settings: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(self.schema), options))
        super().__init__(getattr(settings, "max_batch_size", None), settings.params)
        self.settings = settings

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the sweep and its finalists; then the first job that failed raises what ended it."""
        from kimi_audio_ft.store.usage import using

        assert self.config is not None
        used = using(Path(self.config.hydra.sweep.dir))  # between launches too, when only checkpoints may be there
        with nullcontext() if is_dry_run(self.config) else used:
            return self._sweep(arguments)

    def grid(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of every job without finalists' further seeds; ConfigError: it sweeps seeds too."""
        from kimi_audio_ft.sweep.finalists import refuse_swept_seeds

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        [grid] = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        jobs = with_trials(grid, self.settings.trials)
        refuse_swept_seeds(jobs, self.settings)
        return jobs

    def _sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from kimi_audio_ft.sweep.finalists import launch_finalists

        assert self.launcher is not None
        jobs = self.grid(arguments)
        batches = list(self.split_overrides_to_chunks(jobs, self.max_batch_size)) if jobs else []
        returns: list[Sequence[JobReturn]] = []
        for batch in batches:
            self.validate_batch_is_legal(batch)
            returns.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, returns))))
        returns.append(launch_finalists(self.launcher, jobs, list(chain.from_iterable(returns)), self.settings))
        for returned in chain.from_iterable(returns):
            _ = returned.return_value
        return returns
