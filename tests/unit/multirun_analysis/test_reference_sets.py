"""Trials that were scored on different references are refused, and the difference is named."""

from __future__ import annotations

import pytest

from kimi_audio_ft.errors import UserError
from multirun_analysis import load_sweep


@pytest.mark.parametrize(
    ("entry", "value"), [("num_references", 5), ("num_reference_chars", 99), ("eval_identity", "other")]
)
def test_different_reference_sets_are_refused_by_name(sweep, entry: str, value: object) -> None:
    sweep.trial(0)
    sweep.trial(1, **{entry: value})
    with pytest.raises(
        UserError, match=rf"different reference sets: {entry} is .* in .*0/scores\.json.*1/scores\.json"
    ):
        load_sweep(sweep.folder)


def test_the_difference_between_reference_sets_is_named(sweep) -> None:
    line = {"repeat": 0, "hypothesis": "你", "cer": 0.5, "audio": None}
    rows = [line | {"id": f"u{number}", "reference": "你好"} for number in range(6)]
    sweep.write_lines(sweep.trial(0) / "utterances.jsonl", rows)
    other = [rows[0], line | {"id": "u1", "reference": "您好"}, line | {"id": "x", "reference": "好"}]
    sweep.write_lines(sweep.trial(1, num_references=3) / "utterances.jsonl", other)
    with pytest.raises(UserError) as error:
        load_sweep(sweep.folder)
    assert (
        "1/scores.json. 4 utterances only in 0: 'u2', 'u3', 'u4' and 1 more; 1 utterance only in 1: 'x'; "
        "1 utterance with another reference in 1 than in 0: 'u1' ('您好' for '你好'). Error rates over different "
    ) in str(error.value)


def test_the_same_texts_of_other_recordings_are_told_apart(sweep) -> None:
    for number, data in enumerate(("a", "b")):
        folder = sweep.trial(number, eval_identity=data)
        sweep.write_lines(folder / "utterances.jsonl", [{"id": "u", "reference": "好", "hypothesis": "", "cer": 1.0}])
    with pytest.raises(UserError, match=r"Utterances and references are the same in 0 and 1, recordings or prompts"):
        load_sweep(sweep.folder)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"reference": "今天"}, "1 utterance with another reference in 1 than in 0: 'u0' ('今天' for '你好')"),
        ({"id": "x"}, "1 utterance only in 0: 'u0'; 1 utterance only in 1: 'x'"),
    ],
)
def test_without_a_recorded_identity_the_texts_are_compared(sweep, entry: dict[str, str], told: str) -> None:
    rows = [{"id": f"u{n}", "repeat": 0, "reference": "你好", "hypothesis": "你", "cer": 0.5} for n in range(4)]
    for number, first in enumerate((rows[0], rows[0] | entry)):
        folder = sweep.trial(number, cer=0.5 + number / 10, baseline=False, eval_identity=None)
        sweep.write_lines(folder / "utterances.jsonl", [first, *rows[1:]])
    with pytest.raises(UserError, match="different reference sets") as error:
        load_sweep(sweep.folder)
    assert told in str(error.value)
    sweep.write_lines(folder / "utterances.jsonl", rows[::-1])
    assert len(load_sweep(sweep.folder).statistics.pairs) == 1  # in another order they are the same
    sweep.write_lines(folder / "utterances.jsonl", rows[1:])  # one is lost
    assert [trial.name for trial in load_sweep(sweep.folder).statistics.left_out] == [folder.name]


def test_a_base_on_other_references_is_refused_too(sweep, change) -> None:
    folder = sweep.trial(0)
    change(folder / "baseline.json", num_references=3)
    with pytest.raises(UserError, match=r"num_references is 4 in 0/scores\.json; 3 in 0/baseline\.json"):
        load_sweep(sweep.folder)
