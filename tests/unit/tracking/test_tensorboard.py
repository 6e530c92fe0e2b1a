"""A trial's event files, as TensorBoard itself reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import LoggerConfig, TrainConfig
from kimi_audio_ft.sweep.events import Fitting, Point
from kimi_audio_ft.sweep.view.records import LiveRecords
from kimi_audio_ft.tracking import Tracker, make_tracker
from kimi_audio_ft.trial import Trial

pytest.importorskip("tensorboard", reason='needs tensorboard: pip install -e ".[tensorboard]"')

CONFIG = {"lora": {"r": 8, "target_modules": ["q_proj"], "alpha": None}, "seed": 1}


def tracker_in(folder: Path) -> Tracker:
    logger = LoggerConfig(kind="tensorboard")
    return make_tracker(logger, trial_name="r=8", group="sweep", config=CONFIG, folder=folder)


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in read(folder).Scalars(name)]


def test_points_are_there_while_the_trial_runs_and_once(tmp_path: Path) -> None:
    tracker_in(tmp_path).log({"train/loss": 9.0}, 1)  # an earlier attempt
    tracker = tracker_in(tmp_path)
    for step in (1, 2, 1, 2, 3):  # a resumed training gives its points again
        tracker.log({"train/loss": float(step), "train/grad_norm": 0.5}, step)
    tracker.log({"val/loss": 4.0}, 2)
    assert curve(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert curve(tmp_path, "train/grad_norm")[-1] == (3, 0.5) and curve(tmp_path, "val/loss") == [(2, 4.0)]
    tracker.fail("interrupted")
    assert "failure/text_summary" in read(tmp_path).Tags()["tensors"]


def test_options_and_scores_are_compared_as_hyperparameters(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    tracker_in(tmp_path).finish({"cer": 0.25, "normalised": {"cer": 0.125}, "trial": "r=8"}, [])
    content = read(tmp_path).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["lora.r"].number_value == 8 and options["lora.target_modules"].string_value == '["q_proj"]'
    assert "lora.alpha" not in options
    assert curve(tmp_path, "cer") == [(0, 0.25)] and curve(tmp_path, "cer_normalised") == [(0, 0.125)]


def test_a_trial_that_a_sweep_trains_is_recorded_in_its_folder_and_has_not_failed(tmp_path: Path) -> None:
    """From the first rung on where halving trained it."""
    jobs = [["lora.r=2"], ["lora.r=4"]]
    at_rung, one, second = (Trial(TrainConfig(logger=LoggerConfig(kind="tensorboard"))) for _ in range(3))
    with LiveRecords(str(tmp_path), jobs=jobs) as records:
        for step in (1, 2):
            if step == 1:
                records.add_at_rung("a", at_rung, jobs[0])
            else:
                for number, trial in enumerate((one, second)):
                    records.add("a", trial, tmp_path / str(number))
            records.event(Fitting("a"))
            for again in range(1, step + 1):
                records.event(Point("a", {"step": again, "epoch": 1.0, "split": "train", "loss": 2.5, "lr": 0.1}))
        for trial in (one, second):
            assert trial.tracker is not None and not trial.tracker.shows_utterances
            trial.tracker.finish({"cer": 0.25}, [])
            records.closed(trial)
    for name in ("0", "1"):
        assert curve(tmp_path / name, "train/loss") == [(1, 2.5), (2, 2.5)] and curve(tmp_path / name, "cer")
        assert not read(tmp_path / name).Tags()["tensors"], "no failure"
    assert not list((tmp_path / "halving").rglob("events*"))
