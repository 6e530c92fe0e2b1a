"""``python -m kimi_audio_ft.engine``: what becomes of a task in a process of its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.cluster import task as command
from kimi_audio_ft.sweep.cluster.task import EventReader, EventWriter, Place, Progress, events_path, this_place
from kimi_audio_ft.sweep.plan import Event, Task, Unit, write_task

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
    return [(event["event"], event["unit"]) for event in EventReader(events_path(task_file)).read()]


def make_all(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
    for unit in task.units:
        on_event({"event": "ready", "unit": unit.key, "fitted": True})


def stop_at_b(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
    on_event({"event": "ready", "unit": "a", "fitted": True})
    on_event({"event": "interrupted", "unit": "b", "step": 4})


def break_at_b(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
    on_event({"event": "ready", "unit": "a", "fitted": True})
    raise ZeroDivisionError("a bug of ours")


def test_exit_codes(task_file: Path) -> None:
    assert command.run_task(task_file, never, make_all) == 0
    assert events(task_file) == [("ready", "a"), ("ready", "b")]
    assert command.run_task(task_file, never, stop_at_b) == 75


def test_a_bug_leaves_every_unit_a_last_word(task_file: Path) -> None:
    assert command.run_task(task_file, never, break_at_b) == 1
    assert events(task_file) == [("ready", "a"), ("failed", "b")]
    failed = EventReader(events_path(task_file)).read()[1]
    assert (failed["error_type"], failed["user"]) == ("ZeroDivisionError", False)
    assert "break_at_b" in failed["traceback"]


def test_a_config_that_is_refused_is_every_units_failure(task_file: Path) -> None:
    values = json.loads(task_file.read_text(encoding="utf-8"))
    values["units"][1]["jobs"][0]["optim"]["lr"] = -1.0
    task_file.write_text(json.dumps(values), encoding="utf-8")
    assert command.run_task(task_file, never, make_all) == 1
    for failed in EventReader(events_path(task_file)).read():
        assert failed["event"] == "failed" and failed["user"] and "optim.lr" in failed["message"]
        assert failed["traceback"] == ""
    assert [key for _, key in events(task_file)] == ["a", "b"]


@pytest.mark.parametrize("number", command.SIGNALS)
def test_signals_ask_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with command.heard(with_parent=False) as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
    assert signal.getsignal(number) == before


def test_a_process_whose_parent_is_gone_is_asked_to_stop() -> None:
    assert not command.Asked(parent=0)()
    assert not command.Asked(parent=os.getppid())()
    assert command.Asked(parent=os.getppid() + 1)()


def test_a_task_is_made_where_the_sweep_is(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_store: Path
) -> None:
    (tmp_path / "sweep").mkdir()
    monkeypatch.chdir(tmp_path / "sweep")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    this_place().write(task_file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", "elsewhere")
    seen = []

    def look(task: Task, on_event: OnEvent, should_stop: ShouldStop) -> None:
        seen.append((Path.cwd(), os.environ["HF_HOME"], os.environ["KIMI_AUDIO_FT_STORE"]))

    monkeypatch.setattr(os, "environ", os.environ.copy())
    command.run_task(task_file, never, look)
    assert seen == [(tmp_path / "sweep", "/somewhere", str(private_store))]


def test_nothing_secret_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    assert "hush-hush" not in str(this_place())


def test_a_node_that_does_not_see_the_store_says_so(task_file: Path, tmp_path: Path) -> None:
    place = this_place()
    own = tmp_path / "own"  # a folder of the same name on the node's own disk
    own.mkdir()
    replace(place, store=str(own)).write(task_file)
    assert command.run_task(task_file, never, make_all) == 1
    for failed in EventReader(events_path(task_file)).read():
        assert "does not see the sweep's store" in failed["message"] and "all nodes share" in failed["message"]
    with pytest.raises(UserError, match="working folder is not there"):
        replace(place, folder=str(tmp_path / "gone")).enter()


def test_all_sweeps_know_a_store_by_the_same_file() -> None:
    assert this_place() == this_place()
    assert isinstance(this_place(), Place)


# ---


def test_each_event_is_read_once(tmp_path: Path) -> None:
    path = events_path(tmp_path / "task-0.json")
    reader = EventReader(path)
    assert reader.read() == []
    write = EventWriter(path)
    write({"event": "waiting", "unit": "a"})
    assert reader.read() == [{"event": "waiting", "unit": "a"}]
    write({"event": "failed", "unit": "a", "message": "两行\nlines"})
    assert reader.read() == [{"event": "failed", "unit": "a", "message": "两行\nlines"}]
    assert reader.read() == []


def test_half_a_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    path.write_bytes(b'{"event": "waiting", "unit": "a"}\n{"event": "rea')
    assert [event["event"] for event in reader.read()] == ["waiting"]
    with path.open("ab") as file:
        file.write(b'dy", "unit": "a"}\n')
    assert [event["event"] for event in reader.read()] == ["ready"]


def test_a_killed_writers_half_line_does_not_swallow_the_next_ones_first(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "step", "un')
    EventWriter(path)({"event": "ready", "unit": "a"})
    EventWriter(path)({"event": "ready", "unit": "b"})
    assert EventReader(path).read() == [{"event": "ready", "unit": "a"}, {"event": "ready", "unit": "b"}]


@pytest.mark.parametrize("line", [b"[1, 2]", b"null", b'{"unit": "a"}', b"\xff\xfe"])
def test_what_is_no_event_is_left_out(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b'\n{"event": "ready", "unit": "a"}\n')
    assert [event["unit"] for event in EventReader(path).read()] == ["a"]


def test_an_interruption_is_kept_back_until_it_is_known_to_be_one() -> None:
    progress = Progress()
    assert not progress.take({"event": "interrupted", "unit": "a", "step": 3})
    assert progress.interrupted["a"]["step"] == 3
    assert progress.take({"event": "fitting", "unit": "a"})
    assert not progress.interrupted
    for unit, name in (("a", "ready"), ("b", "failed"), ("c", "paused")):
        assert progress.take({"event": name, "unit": unit})
    assert progress.ended == {"a", "b", "c"}
