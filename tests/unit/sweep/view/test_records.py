"""Runs that are open while adapters train, as wandb writes them offline, or sends them to a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import pytest

from kimi_audio_ft.config.train import LoggerConfig, TrainConfig
from kimi_audio_ft.sweep.events import Fitting, Point, Step
from kimi_audio_ft.sweep.halving import Candidate, Decision, Fate, RungResult
from kimi_audio_ft.sweep.view.records import LiveRecords
from kimi_audio_ft.tracking import make_tracker
from kimi_audio_ft.trial import Trial
from tests.offline_wandb import offline_runs, read_run
from tests.wandb_server import WandbServer


def trial(name: str, /, kind: str = "wandb", **logger: Any) -> Trial:
    made = Trial(TrainConfig(logger=LoggerConfig(kind=kind, mode="offline", system_metrics=False, **logger)))
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
    assert "failure" not in finished.summary
    assert (interrupted.summary["failure"], interrupted.exit_code) == ("interrupted", 1)
    assert not list((tmp_path / "2").glob("*")) and not list((tmp_path / "3").glob("*"))


UTTERANCE = {"id": "a", "repeat": 0, "reference": "你", "hypothesis": "你", "cer": 0.0}


def train_row(step: int) -> dict[str, Any]:
    return {"step": step, "epoch": step / 4, "split": "train", "loss": 2.5, "lr": 0.1, "grad_norm": 0.5}


@pytest.mark.parametrize("local", [True, False])
def test_a_slow_server_holds_up_nothing_but_the_trial_that_has_run(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    """The load of this machine is not that of the cluster's."""
    monkeypatch.setenv("WANDB__STATS_SAMPLING_INTERVAL", "0.1")
    answers, one = Event(), trial("r=4")
    wandb_server.before, one.config.logger.system_metrics = answers.wait, True
    with LiveRecords("sweep", local=local) as records:
        records.add("a", one, tmp_path)
        records.event(Fitting("a"))
        records.event(Point("a", train_row(1)))
        assert one.tracker is not None and not wandb_server.runs
        answers.set()
        wandb_server.wait_for(lambda: wandb_server.runs)
        (run,) = wandb_server.runs.values()
        wandb_server.wait_for(lambda: run.history and (run.events or not local))
        records.event(Point("a", train_row(2)))
        one.tracker.finish({"cer": 0.25}, [UTTERANCE])
        assert (run.exit_code, run.summary["cer"]) == (0, 0.25)
        assert run.curve("train/grad_norm") == [(1, 0.5), (2, 0.5)]
        records.closed(one)
    assert "failure" not in run.summary and bool(run.events) == local


def test_a_record_that_its_trial_has_not_closed_is_closed(tmp_path: Path) -> None:
    one = trial("r=4")
    with LiveRecords("sweep") as records:
        records.add("a", one, tmp_path)
        records.event(Fitting("a"))
        records.closed(one)
    (run,) = offline_runs(tmp_path)
    assert run.exit_code == 1 and "without this record" in run.summary["failure"]


def test_an_interruption_does_not_wait_for_ever(
    tmp_path: Path, wandb_server: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Event()
    wandb_server.before = answers.wait
    records = LiveRecords("sweep", closing_seconds=0.01)
    records.add("a", trial("r=4"), tmp_path)
    try:
        with pytest.raises(KeyboardInterrupt), records:
            records.event(Fitting("a"))
            raise KeyboardInterrupt
        assert "W&B does not answer; what it lacks is in the trials' folders, for `wandb sync" in caplog.text
    finally:
        answers.set()
        for thread in enumerate_threads():  # before the server is emptied
            if thread.name == "records":
                thread.join()


def rung(key: str, number: int, fate: Fate, score: float) -> Candidate:
    """A candidate that has reached so many rungs, at steps 2, 4, ..., and continued at all but the last."""
    steps = [2 * (place + 1) for place in range(number)]
    fates = [*[Fate.CONTINUED] * (number - 1), fate]
    return Candidate(
        name=key,
        jobs={},
        signature=key,
        results=[RungResult(key, step, score, None, False) for step in steps],
        decisions=[Decision(one, 1, f"its loss is {score}") for one in fates],
    )


def test_an_adapter_has_one_record_from_its_first_rung_to_its_trial(tmp_path: Path, wandb_server: WandbServer) -> None:
    """The best goes on; the second is stopped at the second rung, the third fails at the first."""
    jobs = [[f"lora.r={r}", f"decoding.text_temperature={t}"] for r in (2, 4, 8) for t in (0, 1)]
    folder = tmp_path / "sweep"
    cold, warm = trial("r=2 t=0", name="ours"), trial("r=2 t=1", name="ours")
    with LiveRecords(str(folder), jobs=jobs) as records:
        for number, keys in enumerate(("abc", "ab"), start=1):
            for key in keys:
                records.add_at_rung(key, trial(key, name="ours"), jobs["abc".index(key) * 2])
                records.event(Fitting(key))
                for step in range(1, 2 * number + 1):  # a training that is continued gives its points again
                    records.event(Point(key, train_row(step)))
            fates = {"a": Fate.CONTINUED, "b": Fate.CONTINUED if number == 1 else Fate.STOPPED, "c": Fate.FAILED}
            reached = [rung(key, number if key in keys else 1, fates[key], 0.5 / number) for key in "abc"]
            records.decided(reached, number - 1)
        with records:  # of the launch that trains what is left to its end
            for number, one in enumerate((cold, warm)):
                records.add("a", one, folder / str(number))
            records.event(Fitting("a"))
            records.event(Point("a", train_row(5)))
            for one in (cold, warm):
                assert one.tracker is not None
                one.tracker.finish({"cer": 0.25}, [UTTERANCE])
                records.closed(one)
    runs = {run.facts["displayName"]: run for run in wandb_server.runs.values()}
    best, second, third = (runs[f"ours {name} temperature=0"] for name in ("0: r=2", "r=4", "r=8"))
    assert [step for step, _ in best.curve("train/loss")] == [1, 2, 3, 4, 5] and best.exit_code == 0
    assert best.curve("halving/rung") == [(2, 1), (4, 2)] and best.curve("halving/score") == [(2, 0.5), (4, 0.25)]
    assert best.summary["cer"] == 0.25 and best.config["trial_number"] == 0 and "halving/stopped_at" not in best.summary
    assert (second.summary["halving/rung"], second.summary["halving/stopped_at"], second.exit_code) == (2, 4, 0)
    assert (third.summary["failure"], third.exit_code) == ("its loss is 0.5", 1)
    assert (runs["ours 1: r=2 t=1"].curve("halving/rung"), len(runs)) == ([(2, 1), (4, 2)], 4)
    repeated = make_tracker(cold.config.logger, **facts_of(cold, folder / "0"))
    repeated.fail("")
    assert wandb_server.asked[-1] == best.id, "the trial's folder knows the run"


def test_offline_a_trial_takes_the_place_of_its_adapters_earlier_run(tmp_path: Path) -> None:
    """As after a sweep that has ended between a rung and its trials."""
    jobs = [["lora.r=2"], ["lora.r=4"]]
    at_rung, of_trial, adapter = trial("a"), trial("r=2"), tmp_path / "halving" / "adapter-a"
    for begun, folder in ((at_rung, adapter), (of_trial, tmp_path / "0")):
        with LiveRecords(str(tmp_path), jobs=jobs) as records:
            if begun is at_rung:
                records.add_at_rung("a", begun, jobs[0])
            else:
                records.add("a", begun, folder)
            records.event(Fitting("a"))
            records.event(Point("a", train_row(1)))
        assert [run.curve("train/loss") for run in offline_runs(folder)] == [[(1, 2.5)]]
    (run,), (earlier,) = offline_runs(tmp_path / "0"), adapter.glob(".wandb-before-*/offline-run-*")
    assert run.run.run_id == read_run(earlier).run.run_id and not offline_runs(adapter)


def facts_of(one: Trial, folder: Path) -> dict[str, Any]:
    return {"trial_name": "again", "group": "sweep", "config": asdict(one.config), "folder": folder}
