"""Trials named by what differs."""

from __future__ import annotations

import pytest

from kimi_audio_ft.text import (
    FORMULA,
    common_name,
    first_line,
    no_formula,
    number_ranges,
    printable,
    short_names,
    with_formula,
)


def test_short_names() -> None:
    trials = [
        ["lora.r=8", "decoding.text_temperature=0.0", "logger=none", "+data.prompt=转写"],
        ["lora.r=16", "decoding.text_temperature=0.0", "logger=none", "hydra.verbose=true"],
    ]
    assert short_names(trials) == ["r=8 prompt=转写", "r=16"]
    assert short_names([["lora.r=8"]]) == ["r=8"]
    assert short_names([["a=1"], ["a=1"]]) == ["defaults", "defaults"]
    two_keys = [["data.x=1", "optim.x=1"], ["data.x=2", "optim.x=2"]]
    assert short_names(two_keys) == ["data.x=1 optim.x=1", "data.x=2 optim.x=2"]


def test_common_name() -> None:
    assert common_name(["r=8 t=0.0", "r=8 t=0.3"]) == "r=8"
    assert common_name(["r=8 t=0.0"]) == "r=8 t=0.0"
    assert common_name(["r=8", "r=16"]) == "r=8"  # nothing in common: the first one's


def test_number_ranges() -> None:
    assert number_ranges([3, 0, 1, 2, 8]) == "0-3, 8"
    assert number_ranges([7]) == "7"


def test_first_line() -> None:
    assert first_line(ValueError("\nloss is nan\nat step 3")) == "loss is nan"
    assert first_line(MemoryError(), "MemoryError") == "MemoryError" and first_line(" ") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("转写　r=8 é[b] \\x1b", "转写　r=8 é[b] \\x1b"),
        ("\x1b]0;title\x07 \x1b[2J \x9b1A", r"\x1b]0;title\x07 \x1b[2J \x9b1A"),
        ("one\ntwo\r\tthree\u2028four", r"one\ntwo\r\tthree\u2028four"),
        ("\u202egnihton\ud800", r"\u202egnihton\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["-3度", "'-3度", "''＝1", "'好'", "'", "", "好-3", "\t=1"])
def test_every_text_comes_back_from_a_csv_without_formulas(text: str) -> None:
    assert with_formula(no_formula(text)) == text and not no_formula(text).startswith(FORMULA)
