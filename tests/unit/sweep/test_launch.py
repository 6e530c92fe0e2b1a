"""Planning a large sweep costs seconds, whatever its trials share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode

from experiments.bench_overhead import arguments, sweep, write_manifest
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.transcripts import EvaluationSet
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.paths import config_dir, project_root
from kimi_audio_ft.store.cache import one_moment
from kimi_audio_ft.sweep.launch import Launch, Runner, lacking

TRIALS = 200
# Seconds of the CPU; 4 to 6 were measured on a busy machine, and Hydra alone needs 40 to compose them one by one.
MOST_SECONDS = 20.0


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """A launch over small manifests."""
    write_manifest(tmp_path / "train.jsonl", 20, 1)
    write_manifest(tmp_path / "eval.jsonl", 8, 2)
    monkeypatch.setitem(os.environ, "KIMI_AUDIO_FT_ROOT", str(project_root()))
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir(), job_name="train", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", arguments(tmp_path), RunMode.MULTIRUN)
        context = HydraContext(hydra.config_loader, Callbacks(config))
        yield Launch(LauncherConfig(), Runner(context, lambda config: None, config))


@pytest.mark.slow
def test_two_hundred_trials_are_planned_in_seconds(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    own = EvaluationSet.__init__
    monkeypatch.setattr(EvaluationSet, "__init__", lambda *given: opened.append(given) or own(*given))
    shared = [override for override in arguments(tmp_path) if not override.startswith("hydra.")]
    started = time.process_time()
    jobs = launch.compose([[*shared, *point] for point in sweep(TRIALS)], 0)
    with one_moment():
        units, untrained = lacking(jobs)
    seconds = time.process_time() - started
    assert [job.error for job in jobs] == [None] * TRIALS
    assert len(untrained) == TRIALS // 4 and len(units) == TRIALS // 4 + 1 and units[0].key == BASE
    assert all(len(unit.jobs) == 4 for unit in units)
    assert len(opened) == 1
    assert seconds < MOST_SECONDS
