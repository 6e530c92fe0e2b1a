"""Scores and utterances as W&B is given them."""

from __future__ import annotations

import math
from typing import Any

from kimi_audio_ft.tracking.wandb import (
    facts_of,
    flat_keys,
    short_name,
    summary_of,
    table_cell,
    table_columns,
    worst_first,
)

SCORES: dict[str, Any] = {
    "trial": "lora.r=8",
    "cer": 0.25,
    "cer_ci_low": 0.2,
    "substitutions": 3,
    "train_reused": True,
    "final_val_loss": None,
    "diverged": math.nan,
    "cer_repeats": [0.25],
    "normalised": {"cer": 0.125, "empty_rate": 0.0, "normalisation": "normalised"},
    "categories": {"number value": 2, "other": 0.5},
    "terms": {"LPL": {"recall": 0.75, "found": "3 of 4"}},
}


def test_every_number_is_one_flat_key_and_nothing_else_is() -> None:
    assert summary_of(SCORES) == {
        "cer": 0.25,
        "cer_ci_low": 0.2,
        "substitutions": 3,
        "cer_normalised": 0.125,
        "empty_rate_normalised": 0.0,
        "errors/number value": 2,
        "errors/other": 0.5,
        "terms/LPL/recall": 0.75,
    }


def test_what_is_said_in_words_can_be_grouped_by() -> None:
    assert facts_of(SCORES) == {"trial": "lora.r=8", "train_reused": True}


def test_nested_config_becomes_dotted_keys() -> None:
    assert flat_keys({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None, "g": {}}) == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": None,
        "g": {},
    }


def test_long_names_keep_their_end() -> None:
    """W&B's server takes 128 characters, and siblings differ at the end."""
    assert short_name("outputs/sweep") == "outputs/sweep"
    assert short_name("x" * 128) == "x" * 128
    long = short_name("/scratch/" + "x" * 200 + "/lr=0.1")
    assert len(long) == 128 and long.startswith("…x") and long.endswith("/lr=0.1")


def test_the_worst_utterances_come_first_and_equals_keep_their_order() -> None:
    rows = [{"id": name, "cer": cer} for name, cer in (("a", 0.0), ("b", 1.0), ("c", 0.2), ("d", 1.0))]
    assert [row["id"] for row in worst_first(rows, 3)] == ["b", "d", "c"]


def test_columns_are_those_that_some_row_has() -> None:
    old = {"id": "a", "repeat": 0, "reference": "你", "hypothesis": "", "cer": 1.0, "audio": None}
    new = {**old, "seconds": 1.5, "recording": None, "categories": {"other": 1, "filler": 2, "name": 0}}
    assert table_columns([old]) == ["id", "repeat", "reference", "hypothesis", "cer"]
    assert table_columns([old, new]) == ["id", "repeat", "reference", "hypothesis", "cer", "seconds", "errors"]
    assert [table_cell(new, column) for column in ("seconds", "errors")] == [1.5, "filler 2, other 1"]
    assert [table_cell(old, column) for column in ("seconds", "errors")] == [None, ""]
