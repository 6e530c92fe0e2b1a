"""Runs that are open while adapters train, as real offline runs of W&B."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.config.train import LoggerConfig, TrainConfig
from kimi_audio_ft.sweep.events import Fitting, Point, Step
from kimi_audio_ft.sweep.view.records import LiveRecords
from kimi_audio_ft.trial import Trial
from tests.offline_wandb import offline_runs


def trial(name: str, kind: str = "wandb") -> Trial:
    made = Trial(TrainConfig(logger=LoggerConfig(kind=kind, mode="offline", system_metrics=False)))
    made.name = name
    return made


def test_trials_of_an_adapter_are_open_and_fed_while_it_trains(tmp_path: Path) -> None:
    cold, warm, other = trial("t=0"), trial("t=0.7"), trial("r=4")
    records = LiveRecords("sweep")
    for number, (key, one) in enumerate((("a", cold), ("a", warm), ("b", other), ("a", trial("csv", "csv")))):
        records.add(key, one, tmp_path / str(number))
    with pytest.raises(KeyboardInterrupt), records:
        records.event(Fitting("a"))
        assert cold.tracker is not None and warm.tracker is not None and other.tracker is None
        records.event(Step("a", 1, 4, 2.5, 800.0))
        for step in (1, 2):
            records.event(Point("a", {"step": step, "epoch": step / 4, "split": "train", "loss": 2.5, "lr": 0.1}))
        records.event(Point("a", {"step": 2, "epoch": 0.5, "split": "val", "loss": 3.5, "lr": None}))
        records.event(Fitting("a"))  # its pack was split, and it goes on
        cold.tracker.finish({"cer": 0.25}, [])
        records.closed(cold)
        raise KeyboardInterrupt
    (finished,), (interrupted,) = offline_runs(tmp_path / "0"), offline_runs(tmp_path / "1")
    for run in (finished, interrupted):
        assert run.curve("train/loss") == [(1, 2.5), (2, 2.5)] and run.curve("val/loss") == [(2, 3.5)]
        assert run.curve("train/tokens_per_second") == [(1, 800.0), (2, 800.0)]
        assert run.curve("epoch") == [(1, 0.25), (2, 0.5)]
    assert (finished.run.display_name, finished.run.run_group, finished.exit_code) == ("t=0", "sweep", 0)
    assert (interrupted.summary["failure"], interrupted.exit_code) == ("interrupted", 1)
    assert not list((tmp_path / "2").glob("*")) and not list((tmp_path / "3").glob("*"))
