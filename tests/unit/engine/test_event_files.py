from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.sweep.cluster.task import EventReader, EventWriter, Progress, events_path


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
