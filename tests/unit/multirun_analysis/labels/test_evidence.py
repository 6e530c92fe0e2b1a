"""Transcripts and losses of several adapters, gathered from the folders of their evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import write_jsonl
from multirun_analysis.labels.evidence import CODE_SECONDS, gather
from tests.unit.multirun_analysis.labels.conftest import manifest_line, write_evaluation

ROW = {"repeat": 0, "hypothesis": "今天", "cer": 0.0, "audio": None}


def test_every_adapter_has_one_vote(tmp_path: Path) -> None:
    row = {"id": "a", "repeat": 0, "reference": "今天", "cer": 0.0, "audio": None}
    write_evaluation(tmp_path / "0", "one", [{**row, "hypothesis": "今天"}, {**row, "repeat": 1, "hypothesis": "明天"}])
    write_evaluation(tmp_path / "1", "one", [{**row, "hypothesis": "后天", "loss": 0.5}], cer=0.1)
    write_evaluation(tmp_path / "2", "two", [{**row, "hypothesis": "大天", "loss": 0.7}], cer=0.1)
    evidence = gather([tmp_path])
    (utterance,) = evidence.utterances
    assert utterance.votes == {"one": "今天", "two": "大天"} and utterance.losses == {"one": 0.5, "two": 0.7}
    assert list(evidence.adapters.items()) == [("two", 0.1), ("one", 0.2)]


def test_lengths_groups_and_lines_come_from_the_manifest(tmp_path: Path) -> None:
    rows = [{**ROW, "id": "a", "reference": "今天"}, {**ROW, "id": "b", "reference": "明天", "seconds": 9.0}]
    write_evaluation(tmp_path / "0", "one", rows)
    manifest = tmp_path / "train.jsonl"
    write_jsonl(manifest, (manifest_line(name, text) for name, text in (("b", "明天"), ("c", "后天"), ("a", "今天"))))
    evidence = gather([tmp_path], manifest)
    found = {utterance.id: utterance for utterance in evidence.utterances}
    assert {name: one.line for name, one in found.items()} == {"a": 3, "b": 1}
    assert {name: one.seconds for name, one in found.items()} == {"a": 25 * CODE_SECONDS, "b": 9.0}
    assert {one.recording for one in found.values()} == {"tuesday"}
    assert evidence.notes == ["1 references of the manifest were not evaluated"]


def test_a_manifest_of_other_data_is_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "0", "one", [{**ROW, "id": "a", "reference": "今天"}])
    manifest = tmp_path / "train.jsonl"
    write_jsonl(manifest, [manifest_line("a", "明天")])
    with pytest.raises(DataError, match="holds none of the references that were evaluated"):
        gather([tmp_path], manifest)
