from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis import load_sweep
from tests.report_page import printed
from tests.synthetic_sweep import write_ranks, write_sweep

FACTORS = {4: 1.7, 8: 1.01, 16: 0.99, 32: 1.0}  # all but rank 4 tie


def test_the_leaderboard_has_intervals_and_marks_the_group(tmp_path: Path) -> None:
    comparison = load_sweep(write_ranks(tmp_path, FACTORS))
    text = printed(comparison)
    best = comparison.best.trial
    interval = comparison.statistics.intervals[best]
    half = f"{50 * (interval.high - interval.low):.2f}"
    assert re.search(rf"^ *1 +{best.name} +{best.params['lora.r']} +{100 * best.cer:.2f} +{half} ", text, re.MULTILINE)
    assert len(re.findall(r"^ *≈\d ", text, re.MULTILINE)) == 2
    assert (
        "±" in text
        and f"Recommended: trial {best.name} (lora.r={best.params['lora.r']}), CER" in text
        and "…" not in text
    )


def test_without_intervals_the_leaderboard_has_no_column_for_them(tmp_path: Path) -> None:
    assert "±" not in printed(load_sweep(write_ranks(tmp_path, FACTORS, utterances=20, recordings=2)))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_leaderboard_of_three_parameters_fits(tmp_path: Path, width: int) -> None:
    folder = write_sweep(tmp_path / "sweep", ranks=(8, 32), utterances=60, recordings=20)
    table = printed(load_sweep(folder), width).split("Best:")[0]
    assert "…" not in table and ("WER" in table) == (width == 120)


def test_ranks_bases_and_failures_are_shown(sweep: Any) -> None:
    sweep.grid(temperatures=(0.0,))
    sweep.fail(6, rate=0.1)
    text = printed(load_sweep(sweep.folder))
    assert re.search(r"1\s+5\s+32\s+0\.003\s+\d+\.\d\d", text)
    assert re.search(r"base\s+–\s+–\s+–\s+68\.00", text)
    assert "FAILED 6" in text and "Best: trial 5, lora.r=32 optim.lr=0.003" in text
    assert "…" not in text


def test_a_narrow_terminal_keeps_the_main_columns(sweep_24: Path) -> None:
    text = printed(load_sweep(sweep_24), width=60, most_rows=5)
    assert "CER %" in text and "WER" not in text and "…" not in text
    assert "and 24 more rows" in text


def test_nothing_of_a_record_is_obeyed_by_the_terminal(sweep: Any) -> None:
    evil = "\x1b[2J\x9b1A\u202e"
    sweep.trial(0, trial=evil, params=sweep.params(8, 1e-3, 0.0) | {evil: evil})
    sweep.trial(1, trial="b", params=sweep.params(8, 1e-3, 0.0) | {evil: "b"})
    sweep.fail(2, message=evil)
    text = printed(load_sweep(sweep.folder), 200)
    assert not any(char in text for char in ("\x1b", "\x9b", "\u202e"))
    assert r"\x1b[2J\x9b1A\u202e" in text
