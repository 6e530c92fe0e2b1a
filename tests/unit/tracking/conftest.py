"""Settings of a tracker, and a reader of what it has written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.offline_wandb import StoredRun
from tests.offline_wandb import offline_runs as read_offline_runs


@pytest.fixture
def offline_runs() -> Callable[[Path], list[StoredRun]]:
    """Function that reads the offline runs under a trial's folder."""
    return read_offline_runs


@dataclass
class LoggerSettings:
    """The fields of the config group `logger` that a tracker reads."""

    kind: str = "wandb"
    project: str = "unit-tests"
    entity: str | None = None
    mode: str = "auto"
    tags: list[str] = field(default_factory=lambda: ["demo"])
    utterance_rows: int = 100
    audio: bool = False


@pytest.fixture
def logger_settings() -> type[LoggerSettings]:
    """Class of the settings, to be made with the fields a test cares about."""
    return LoggerSettings
