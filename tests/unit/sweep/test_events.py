"""Events in JSON and in files, and the units that they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_audio_ft.outcomes import BASE, Failure
from kimi_audio_ft.sweep.events import (
    Decoding,
    Event,
    EventReader,
    EventWriter,
    Failed,
    Fitting,
    Interrupted,
    Paused,
    Progress,
    Ready,
    Split,
    Step,
    Waiting,
    event_from_json,
    events_path,
)

FAILED = Failed("a", Failure("TrainingFailed", "两行\nlines", user=True))
EVENTS: list[Event] = [
    *(Fitting("a", 4, "task-0.1"), Step("a", 1, 8, 0.5, 1500.0), Decoding("a", 3, 12), Waiting("a"), Ready("a", True)),
    *(Paused("a", 4, 0.25, None), Interrupted("a", 4), Interrupted(BASE), FAILED, Split(["a", "b"], "died")),
]


@pytest.mark.parametrize("event", EVENTS)
def test_json_gives_the_same_event(event: Event) -> None:
    assert event_from_json(json.loads(json.dumps(event.to_json()))) == event


def test_json_is_flat_and_names_the_kind() -> None:
    assert FAILED.to_json() == {
        "event": "failed",
        "unit": "a",
        "error_type": "TrainingFailed",
        "message": "两行\nlines",
        "user": True,
        "traceback": "",
    }
    split = {"event": "split", "unit": None, "units": ["a"], "reason": "died", "memory": False}
    assert Split(["a"], "died").to_json() == split


def test_the_kinds_that_end_a_unit() -> None:
    assert {type(event).__name__ for event in EVENTS if event.ends} == {"Ready", "Paused", "Interrupted", "Failed"}


def test_each_event_is_read_once(tmp_path: Path) -> None:
    path = events_path(tmp_path / "task-0.json")
    reader = EventReader(path)
    assert reader.read() == []
    write = EventWriter(path)
    for event in (Waiting("a"), FAILED):
        write(event)
        assert reader.read() == [event]
    assert reader.read() == []


def test_half_a_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    path.write_bytes(b'{"event": "waiting", "unit": "a"}\n{"event": "rea')
    assert reader.read() == [Waiting("a")]
    with path.open("ab") as file:
        file.write(b'dy", "unit": "a"}\n')
    assert reader.read() == [Ready("a")]


def test_a_killed_writers_half_line_does_not_swallow_the_next_ones_first(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "step", "un')
    EventWriter(path)(Ready("a"))
    EventWriter(path)(Ready("b"))
    assert EventReader(path).read() == [Ready("a"), Ready("b")]


@pytest.mark.parametrize("line", [b"[1, 2]", b"null", b'{"unit": "a"}', b'{"event": "born", "unit": "a"}', b"\xff\xfe"])
def test_what_is_no_event_is_left_out(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b'\n{"event": "ready", "unit": "a"}\n')
    assert EventReader(path).read() == [Ready("a")]


def test_an_interruption_is_kept_back_until_it_is_known_to_be_one() -> None:
    progress = Progress()
    assert not progress.take(Interrupted("a", 3))
    assert progress.interrupted["a"].step == 3
    assert progress.take(Fitting("a"))
    assert not progress.interrupted
    failure = Failure("JobEnded", "lost", user=True)
    for event in (Ready("a"), Failed("b", failure), Paused("c", 4, 0.5), Split(["d", "e"], "died")):
        assert progress.take(event)
    assert not progress.take(Split([], "what broke has failed by itself"))
    assert progress.ended == {"a", "b", "c"}
