"""Settings of a tracker, and a reader of what it has written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import LoggerConfig
from tests.offline_wandb import StoredRun
from tests.offline_wandb import offline_runs as read_offline_runs


@pytest.fixture
def offline_runs() -> Callable[[Path], list[StoredRun]]:
    """Function that reads the offline runs under a trial's folder."""
    return read_offline_runs


@pytest.fixture
def logger_settings() -> Callable[..., LoggerConfig]:
    """Makes settings with the fields that a test cares about."""
    return partial(LoggerConfig, project="unit-tests", tags=["demo"], utterance_rows=100)
