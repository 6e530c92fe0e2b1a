"""Recordings with the same samples, whatever their files."""

from __future__ import annotations

from pathlib import Path

from multirun_analysis.labels.evidence import Utterance
from multirun_analysis.labels.same_audio import listen


def spoken(name: str, path: Path | None, reference: str, *votes: str) -> Utterance:
    texts = {str(place): vote for place, vote in enumerate(votes or ("今天开会", "今天开会"))}
    return Utterance(name, reference, None if path is None else str(path), name, None, votes=texts)


def test_the_same_sound_is_found_in_another_format(recordings: dict[str, Path]) -> None:
    utterances = [spoken(name, path, "今天") for name, path in recordings.items()] + [spoken("none", None, "今天")]
    found = listen(utterances)
    assert {name: [one.id for one in same] for name, same in found.same.items()} == {"wav": ["flac"], "flac": ["wav"]}
    assert found.seconds == {"wav": 0.1, "flac": 0.1, "other": 0.1}
    assert found.missing == 2
