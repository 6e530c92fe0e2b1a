"""``hydra/launcher=packed``. Hydra imports this at every start, so nothing heavy is imported before a launch."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.runtime.time_limit import TimeLimit

if TYPE_CHECKING:
    from kimi_audio_ft.sweep.halving import RungResult
    from kimi_audio_ft.sweep.launch import Launch
    from kimi_audio_ft.sweep.view.records import LiveRecords

ConfigStore.instance().store(group="hydra/launcher", name="packed", node=LauncherConfig, provider="kimi_audio_ft")


class PackedLauncher(Launcher):
    """Trains a sweep's adapters together, then runs every job as Hydra's basic launcher does."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LauncherConfig), options))
        assert isinstance(settings, LauncherConfig)
        self.settings = settings
        self.records: LiveRecords | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launches need, and let the sweeper compose jobs as quickly as a launch does."""
        from kimi_audio_ft.sweep.compose import TemplateLoader

        # This process, which trains nothing, makes many objects that stay; to look through them after every 700 new
        # ones takes a tenth of its time.
        gc.set_threshold(50_000, 20, 20)
        hydra_context.config_loader = TemplateLoader(hydra_context.config_loader)  # type: ignore[assignment]
        self.context, self.task, self.config = hydra_context, task_function, config
        self.limit = TimeLimit.from_now(self.settings.hours)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One return for each job, in order; a failed job's holds its exception."""
        return self._launch().run(job_overrides, initial_job_idx)

    def num_steps(self, job_overrides: Sequence[Sequence[str]]) -> list[int]:
        from kimi_audio_ft.sweep import halving_run

        return halving_run.num_steps(self._launch(), job_overrides)

    def train_until(self, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
        """Train every job's adapter to an optimizer step and evaluate it there, by "cer" or "loss"; in order."""
        from kimi_audio_ft.sweep import halving_run

        return halving_run.train_until(self._launch(), job_overrides, until, metric)

    def record_all(self, jobs: Sequence[Sequence[str]]) -> LiveRecords:
        """Records that all launches share from now on, of a sweep that chooses from these jobs."""
        from kimi_audio_ft.sweep.view.records import LiveRecords

        local = self.settings.executor == "local"
        self.records = LiveRecords(str(self.config.hydra.sweep.dir), local, jobs=jobs)
        return self.records

    def _launch(self) -> Launch:
        from kimi_audio_ft.sweep.launch import Launch, Runner

        return Launch(self.settings, Runner(self.context, self.task, self.config), self.limit, self.records)
