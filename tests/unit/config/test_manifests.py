"""The forms in which options name manifests, and what is said of those that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_audio_ft.config.manifests import evaluation_sets, parts_of_training
from kimi_audio_ft.config.train import DataConfig
from kimi_audio_ft.errors import ConfigError


def test_training_manifests_and_their_weights() -> None:
    assert parts_of_training("a.jsonl", None) == {"a.jsonl": 1.0}
    assert parts_of_training(["a.jsonl", "b.jsonl"], None) == {"a.jsonl": 1.0, "b.jsonl": 1.0}
    assert parts_of_training(["a.jsonl", "b.jsonl"], [1, 0.5]) == {"a.jsonl": 1.0, "b.jsonl": 0.5}
    assert parts_of_training(["a.jsonl", "b.jsonl"], [1, 0]) == {"a.jsonl": 1.0}


@pytest.mark.parametrize(
    ("value", "sets"),
    [
        ("a.jsonl", {"": "a.jsonl"}),
        (["a.jsonl"], {"": "a.jsonl"}),
        ({"one": "a.jsonl"}, {"": "a.jsonl"}),
        ({"meetings": "b.jsonl", "calls": "a.jsonl"}, {"calls": "a.jsonl", "meetings": "b.jsonl"}),
        ({"会议": "a.jsonl", 2024: "b.jsonl"}, {"2024": "b.jsonl", "会议": "a.jsonl"}),
        (["x/b.tokens.jsonl", "a.jsonl"], {"a": "a.jsonl", "b": "x/b.tokens.jsonl"}),
        (["/m/eval.jsonl", "/c/eval.jsonl"], {"c_eval": "/c/eval.jsonl", "m_eval": "/m/eval.jsonl"}),
        (["my calls (1).jsonl", "-b.jsonl"], {"b": "-b.jsonl", "my_calls_1_": "my calls (1).jsonl"}),
    ],
)
def test_evaluation_sets_have_names_that_columns_can_have(value: Any, sets: dict[str, str]) -> None:
    assert evaluation_sets(value) == sets
    assert list(evaluation_sets(value)) == list(sets), "in the order of the names"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"^data\.eval_manifest=\[\]: needs at least one manifest\. Write data\.eval_manifest=FILE"),
        ({}, "needs at least one manifest"),
        (None, r"must be a path, a list of paths, or paths by name"),
        (["a.jsonl", ""], "must be a path, a list of paths, or paths by name"),
        ({"a": ["b.jsonl"]}, "must be a path, a list of paths, or paths by name"),
        ({"a/b": "a.jsonl", "c": "c.jsonl"}, "the name 'a/b' must be of letters, digits, - and _"),
        ({"=a": "a.jsonl", "c": "c.jsonl"}, "the name '=a' must be"),
        ({"a": "a.jsonl", "c": "a.jsonl"}, "names a manifest twice"),
        (["a.jsonl", "a.jsonl"], "names a manifest twice"),
        (["/x/m/a.jsonl", "/y/m/a.jsonl"], r"give two sets the same name\. Name them: 'data\.eval_manifest=\{NAME: /x"),
    ],
)
def test_what_is_no_evaluation_set_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(eval_manifest=value)


def test_home_is_expanded_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    data = DataConfig(train_manifest=["~/a.jsonl", "b.jsonl"], eval_manifest={"a": "~/a.jsonl", "b": "b.jsonl"})
    assert data.train_manifest == ["/home/someone/a.jsonl", "b.jsonl"]
    assert data.eval_manifest == {"a": "/home/someone/a.jsonl", "b": "b.jsonl"}
