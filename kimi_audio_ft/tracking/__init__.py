"""Records of a trial beside its own files: Weights & Biases, TensorBoard, a CSV table, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.train import LoggerConfig
from kimi_audio_ft.tracking.base import RUNG, CsvRun, Tracker, Utterance, metrics_of
from kimi_audio_ft.tracking.tensorboard import TensorBoardRun, remove_events
from kimi_audio_ft.tracking.wandb import TRIAL, WandbRun, continue_run

__all__ = ["LIVE", "RUNG", "Tracker", "Utterance", "continue_record", "make_tracker", "metrics_of"]

LIVE: Mapping[str, type[Tracker]] = {"wandb": WandbRun, "tensorboard": TensorBoardRun}
"""Kinds of records that are looked at while trials train; a sweep opens them before its trials run."""


def make_tracker(
    settings: LoggerConfig,
    *,
    trial_name: str,
    group: str | None,
    config: Mapping[str, Any],
    folder: Path,
    job_type: str = TRIAL,
) -> Tracker:
    """Open the record of one trial that ``logger.kind`` asks for.

    ``trial_name``: differences from its siblings. ``group``: the sweep, or None. ``config``: resolved, of plain values.
    ``folder``: the trial's. ``job_type`` tells trials of a sweep from evaluations in W&B's filters.
    """
    if settings.kind == "wandb":
        return WandbRun(settings, folder, trial_name, group, config, job_type)
    if settings.kind == "tensorboard":
        return TensorBoardRun(folder, config)
    return CsvRun(folder) if settings.kind == "csv" else Tracker()


def continue_record(kind: str, earlier: Path, folder: Path) -> None:
    """Let the record that is opened next in ``folder`` take the place of the one that ``earlier`` holds, if any."""
    if kind == "wandb":
        continue_run(earlier, folder)
    elif kind == "tensorboard":
        remove_events(earlier)  # all their points are given to the next one again
