"""Records of a trial beside its own files: Weights & Biases, a CSV table, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.tracking.base import CsvRun, NullTracker, Tracker, TrackerSettings, Utterance
from kimi_audio_ft.tracking.wandb import WandbRun

__all__ = ["Tracker", "TrackerSettings", "Utterance", "make_tracker"]


def make_tracker(
    settings: TrackerSettings,
    *,
    trial_name: str,
    group: str,
    config: Mapping[str, Any],
    folder: Path,
    job_type: str = "trial",
) -> Tracker:
    """Open the record of one trial, as the config group ``logger`` asks.

    ``trial_name`` says what differs from the trial's siblings, ``group`` names the sweep, ``config`` is the full
    resolved config as plain dicts, lists and scalars, ``folder`` is the trial's folder, and ``job_type`` tells trials
    of a sweep from evaluations in W&B's filters.
    Raises ``ConfigError`` for an unknown ``logger.kind``.
    """
    if settings.kind == "wandb":
        return WandbRun(settings, trial_name=trial_name, group=group, config=config, folder=folder, job_type=job_type)
    if settings.kind == "csv":
        return CsvRun(folder)
    if settings.kind == "none":
        return NullTracker()
    raise ConfigError("logger.kind", settings.kind, "there is no such record", "Use wandb, csv or none")
