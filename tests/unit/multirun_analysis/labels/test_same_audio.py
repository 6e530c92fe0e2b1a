from __future__ import annotations

from pathlib import Path

from multirun_analysis.labels.same_audio import listen
from tests.unit.multirun_analysis.labels.conftest import spoken


def test_the_same_sound_is_found_in_another_format(recordings: dict[str, Path]) -> None:
    utterances = [spoken(name, path, "今天") for name, path in recordings.items()] + [spoken("none", None, "今天")]
    found = listen(utterances)
    assert {name: [one.id for one in same] for name, same in found.same.items()} == {"wav": ["flac"], "flac": ["wav"]}
    assert found.seconds == {"wav": 0.1, "flac": 0.1, "other": 0.1}
    assert found.missing == 2
