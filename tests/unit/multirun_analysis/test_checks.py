"""Trials that were scored on different references are refused, and the difference is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from kimi_audio_ft.errors import UserError
from multirun_analysis import load_sweep
from multirun_analysis.messages import ENGLISH
from multirun_analysis.report.facts import sweep_facts
from multirun_analysis.words import conclusions


def refusal(sweep: Any, first: dict[str, Any], second: dict[str, Any]) -> str:
    sweep.trial(0, baseline=False, **first)
    sweep.trial(1, rank=32, baseline=False, **second)
    with pytest.raises(UserError) as error:
        load_sweep(sweep.folder)
    return str(error.value).replace(str(sweep.folder), "SWEEP")


@pytest.mark.parametrize(
    ("entry", "value"), [("num_references", 5), ("num_reference_chars", 99), ("eval_identity", "other")]
)
def test_different_reference_sets_are_refused_by_name(sweep, entry: str, value: object) -> None:
    told = refusal(sweep, {}, {entry: value})
    assert re.search(rf"different reference sets: {entry} is .* in .*0/scores\.json.*1/scores\.json", told)


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


def test_a_base_on_other_references_is_refused_too(sweep, change) -> None:
    folder = sweep.trial(0)
    change(folder / "baseline.json", num_references=3)
    with pytest.raises(UserError, match=r"num_references is 4 in 0/scores\.json; 3 in 0/baseline\.json"):
        load_sweep(sweep.folder)


# Trials that were not scored alike are never ranked together.

OPTIONS: dict[str, Any] = {"fillers": ["嗯", "呃"], "erhua": True, "terms": ["5G"], "names": []}
AGAIN = "that only rescores, nothing is trained or decoded again"


def scored(version: int | None = 2, **options: Any) -> dict[str, Any]:
    """What scores.json says of how it was made."""
    given = {**OPTIONS, **options}
    return {
        **({} if version is None else {"normalisation_version": version}),
        "normalisation": {name: given[name] for name in given if name not in ("terms", "names")},
        "word_lists": {name: given[name] for name in ("terms", "names")},
    }


def test_trials_that_were_scored_alike_are_compared(sweep: Any) -> None:
    sweep.trial(0, baseline=False, **scored())
    sweep.trial(1, baseline=False, **scored(fillers=["呃", "嗯"]))  # in another order
    comparison = load_sweep(sweep.folder)
    assert len(comparison.rows) == 2 and len(conclusions(comparison, ENGLISH)) == 1
    facts = dict(sweep_facts(comparison, ENGLISH))
    assert facts["Normalisation, version"] == "2"
    assert facts["Scoring options"] in (
        f"scoring.fillers: {fillers}, scoring.erhua: true, scoring.traditional: true, scoring.readings: true, "
        "scoring.terms: 1 word, scoring.names: 0 words"
        for fillers in ("[嗯, 呃]", "[呃, 嗯]")
    )


def test_another_version_is_refused(sweep: Any) -> None:
    assert refusal(sweep, scored(1), scored(2)) == (
        "SWEEP: trials were scored by different versions of the normalisation: normalisation_version is 1 in "
        f"0/scores.json; 2 in 1/scores.json. Their scores cannot be compared. Re-run the same sweep command: {AGAIN}"
    )


def test_a_version_that_only_some_records_state_is_refused(sweep: Any) -> None:
    assert "normalisation_version is not stated in 0/scores.json; 2 in 1/scores.json" in refusal(
        sweep, scored(None), scored(2)
    )


@pytest.mark.parametrize(
    ("name", "one", "other", "said"),
    [
        ("fillers", ["嗯"], [], "['嗯'] in 0/scores.json; [] in 1/scores.json"),
        ("erhua", True, False, "true in 0/scores.json; false in 1/scores.json"),
        ("readings", True, False, "true in 0/scores.json; false in 1/scores.json"),
        ("traditional", True, "false (opencc 1.4.2)", "true in 0/scores.json; 'false (opencc 1.4.2)' in 1/scores.json"),
        ("terms", ["5G"], ["LPL"], "['5G'] in 0/scores.json; ['LPL'] in 1/scores.json"),
        ("names", [], ["吴总"], "[] in 0/scores.json; ['吴总'] in 1/scores.json"),
    ],
)
def test_another_option_is_refused(sweep: Any, name: str, one: Any, other: Any, said: str) -> None:
    assert refusal(sweep, scored(**{name: one}), scored(**{name: other})) == (
        f"SWEEP: trials were scored under different options: scoring.{name} is {said}. Their scores cannot be "
        f"compared. Re-run the same sweep command with one value of scoring.{name}: {AGAIN}"
    )


def test_of_long_lists_the_words_that_differ_are_named(sweep: Any) -> None:
    common = [f"词{number}" for number in range(10)]
    told = refusal(sweep, scored(terms=[*common, "甲", "乙", "丙", "丁"]), scored(terms=[*common, "戊"]))
    assert (
        "scoring.terms is a list of 14 words in 0/scores.json; a list of 11 words in 1/scores.json. Only in the list "
        "of 0: '甲', '乙', '丙' and 1 more; only in the list of 1: '戊'. Their scores"
    ) in told


def test_records_from_before_the_word_lists_are_not_mixed_with_newer_ones(sweep: Any) -> None:
    older = {key: value for key, value in scored().items() if key != "word_lists"}
    assert "scoring.terms is not stated in 0/scores.json; ['5G'] in 1/scores.json" in refusal(sweep, older, scored())


def test_a_base_that_was_scored_otherwise_is_refused(sweep: Any, change: Callable[..., None]) -> None:
    change(sweep.trial(0, **scored()) / "baseline.json", **scored(3))
    with pytest.raises(UserError, match=r"is 2 in 0/scores\.json; 3 in 0/baseline\.json"):
        load_sweep(sweep.folder)


def test_what_a_record_does_not_say_is_not_recorded(sweep: Any) -> None:
    sweep.trial(0, baseline=False)
    facts = dict(sweep_facts(load_sweep(sweep.folder), ENGLISH))
    assert facts["Normalisation, version"] == "not recorded"
    assert "scoring.names: not recorded" in facts["Scoring options"]
