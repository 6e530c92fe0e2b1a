from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kimi_audio_ft.manifest.part import Part
from multirun_analysis.labels.same_audio import listen
from tests.unit.multirun_analysis.labels.conftest import spoken


def test_the_same_sound_is_found_in_another_format(recordings: dict[str, Path]) -> None:
    utterances = [spoken(name, path, "今天") for name, path in recordings.items()] + [spoken("none", None, "今天")]
    found = listen(utterances)
    assert {name: [one.id for one in same] for name, same in found.same.items()} == {"wav": ["flac"], "flac": ["wav"]}
    assert found.seconds == {"wav": 0.1, "flac": 0.1, "other": 0.1}
    assert found.missing == 2


def test_parts_of_recordings_are_compared_as_such(recordings: dict[str, Path]) -> None:
    parts = {"first": Part(0.0, 0.05), "second": Part(0.05, 0.1), "beyond": Part(0.05, 0.2), "channel": Part(channel=0)}
    utterances = [replace(spoken(name, recordings["wav"], "今天"), part=part) for name, part in parts.items()]
    utterances += [replace(spoken("twin", recordings["flac"], "明天"), part=parts["second"])]
    found = listen(utterances)
    assert {name: [one.id for one in same] for name, same in found.same.items()} == {
        "second": ["twin"],
        "twin": ["second"],
    }
    assert found.seconds == {"first": 0.05, "second": 0.05, "channel": 0.1, "twin": 0.05} and found.missing == 1
