"""``python -m kimi_audio_ft.sweep``: what becomes of a task in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.data.workers import SIDE_BY_SIDE
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.sweep import task as command
from kimi_audio_ft.sweep.events import Event, EventReader, Failed, Interrupted, Ready, events_path
from kimi_audio_ft.sweep.plan import Task, Unit, read_task, write_task
from kimi_audio_ft.sweep.task import sweep_environment

OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A task of the units a and b."""
    file = tmp_path / "task-0.json"
    write_task(Task(0, [Unit("a", [TrainConfig()]), Unit("b", [TrainConfig()])]), file)
    return file


def never() -> bool:
    return False


def events(task_file: Path) -> list[tuple[str, str]]:
    found = [event.to_json() for event in EventReader(events_path(task_file)).read()]
    return [(event["event"], event["unit"]) for event in found]


def failures(task_file: Path) -> list[Failure]:
    return [event.failure for event in EventReader(events_path(task_file)).read() if isinstance(event, Failed)]


def make_all(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
    for unit in task.units:
        on_event(Ready(unit.key, fitted=True))


def stop_at_b(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
    on_event(Ready("a", fitted=True))
    on_event(Interrupted("b", 4))


def break_at_b(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
    on_event(Ready("a", fitted=True))
    raise ZeroDivisionError("a bug of ours")


def test_exit_codes(task_file: Path) -> None:
    assert command.run_task(task_file, never, make_all) == 0
    assert events(task_file) == [("ready", "a"), ("ready", "b")]
    assert command.run_task(task_file, never, stop_at_b) == 75


def test_a_bug_leaves_every_unit_a_last_word(task_file: Path) -> None:
    assert command.run_task(task_file, never, break_at_b) == 1
    assert events(task_file) == [("ready", "a"), ("failed", "b")]
    [failure] = failures(task_file)
    assert (failure.error_type, failure.user) == ("ZeroDivisionError", False)
    assert "break_at_b" in failure.traceback


def test_a_config_that_is_refused_is_every_units_failure(task_file: Path) -> None:
    values = json.loads(task_file.read_text(encoding="utf-8"))
    values["units"][1]["jobs"][0]["optim"]["lr"] = -1.0
    task_file.write_text(json.dumps(values), encoding="utf-8")
    assert command.run_task(task_file, never, make_all) == 1
    for failure in failures(task_file):
        assert failure.user and "optim.lr" in failure.message and failure.traceback == ""
    assert [key for _, key in events(task_file)] == ["a", "b"]


def test_a_task_is_made_where_the_sweep_is(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_store: Path
) -> None:
    (tmp_path / "sweep").mkdir()
    monkeypatch.chdir(tmp_path / "sweep")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    sweep_environment().write(task_file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", "elsewhere")
    seen = []

    def look(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
        seen.append((Path.cwd(), os.environ["HF_HOME"], os.environ["KIMI_AUDIO_FT_STORE"]))

    monkeypatch.setattr(os, "environ", os.environ.copy())
    command.run_task(task_file, never, look)
    assert seen == [(tmp_path / "sweep", "/somewhere", str(private_store))]


def test_a_task_takes_the_groups_permissions_of_the_store_whoever_started_it(
    task_file: Path, private_store: Path
) -> None:
    """A worker of Ray has the mask of the node's daemon, and a job of Slurm that of the user's shell."""
    private_store.mkdir()
    private_store.chmod(0o2775)
    made = private_store / "made"
    os.umask(0o077)
    command.run_task(task_file, never, lambda *_: made.touch())
    assert made.stat().st_mode & 0o777 == 0o660


def test_nothing_secret_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    assert "hush-hush" not in str(sweep_environment())
    assert sweep_environment(["HF_TOKEN"]).environment["HF_TOKEN"] == "hush-hush", "unless the sweep names it"


def test_a_node_that_does_not_see_the_store_says_so(task_file: Path, tmp_path: Path) -> None:
    environment = sweep_environment()
    own = tmp_path / "own"  # a folder of the same name on the node's own disk
    own.mkdir()
    replace(environment, store=str(own)).write(task_file)
    assert command.run_task(task_file, never, make_all) == 1
    told = [failure.message for failure in failures(task_file)]
    assert len(told) == 2 and all("does not see the sweep's store" in words for words in told)
    assert "all nodes share" in told[0]
    with pytest.raises(UserError, match="working folder is not there"):
        replace(environment, folder=str(tmp_path / "gone")).enter()


def test_all_sweeps_know_a_store_by_the_same_file() -> None:
    assert sweep_environment().witness == sweep_environment().witness != ""


def test_a_task_knows_how_many_share_its_machine(task_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    write_task(replace(read_task(task_file), side_by_side=3), task_file)
    seen: list[str] = []
    command.run_task(task_file, never, lambda *_: seen.append(os.environ[SIDE_BY_SIDE]))
    assert seen == ["3"]
