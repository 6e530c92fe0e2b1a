"""Runs that are open while adapters train, as real offline runs of W&B."""

from __future__ import annotations

from pathlib import Path
from threading import Event, current_thread, main_thread
from threading import enumerate as enumerate_threads

import pytest

from kimi_audio_ft.config.train import LoggerConfig, TrainConfig
from kimi_audio_ft.sweep.events import Fitting, Point, Step
from kimi_audio_ft.sweep.view.records import LiveRecords
from kimi_audio_ft.trial import Trial
from tests.offline_wandb import offline_runs
from tests.online_wandb import Server


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
    assert (finished.run.display_name, finished.run.run_group, finished.exit_code) == ("0: t=0", "sweep", 0)
    assert (interrupted.summary["failure"], interrupted.exit_code) == ("interrupted", 1)
    assert not list((tmp_path / "2").glob("*")) and not list((tmp_path / "3").glob("*"))


def test_a_slow_server_holds_up_nothing_but_the_trial_that_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, threads = Event(), set()

    def slow() -> None:
        answers.wait()
        threads.add(current_thread())

    server, one = Server(monkeypatch, slow), trial("r=4")
    one.config.logger.system_metrics = True
    with LiveRecords("sweep", local=False) as records:
        records.add("a", one, tmp_path)
        records.event(Fitting("a"))
        for step in (1, 2):
            records.event(Point("a", {"step": step, "epoch": step / 4, "split": "train", "loss": 2.5, "lr": 0.1}))
        assert one.tracker is not None and not server.runs
        answers.set()
        one.tracker.finish({"cer": 0.25}, [])
        (run,) = server.runs.values()
        assert (run.exit_code, run.summary["cer"]) == (0, 0.25)
        assert [row["step"] for row in run.history] == [1, 2]
        records.closed(one)
    assert "failure" not in run.summary and main_thread() not in threads
    assert not run.stats, "the load of this machine is not that of the cluster's"


def test_a_record_that_its_trial_has_not_closed_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, one = Server(monkeypatch), trial("r=4")
    with LiveRecords("sweep") as records:
        records.add("a", one, tmp_path)
        records.event(Fitting("a"))
        records.closed(one)
    (run,) = server.runs.values()
    assert run.exit_code == 1 and "without this record" in run.summary["failure"]


def test_an_interruption_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Event()
    Server(monkeypatch, answers.wait)
    records = LiveRecords("sweep", closing_seconds=0.01)
    records.add("a", trial("r=4"), tmp_path)
    try:
        with pytest.raises(KeyboardInterrupt), records:
            records.event(Fitting("a"))
            raise KeyboardInterrupt
        assert "W&B does not answer" in caplog.text
    finally:
        answers.set()
        for thread in enumerate_threads():  # before the stand-in goes
            if thread.name == "records":
                thread.join()
