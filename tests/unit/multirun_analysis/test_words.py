"""The statistics in words, the same on the page and in the terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.report.page import render
from multirun_analysis.words import conclusions, points
from tests.report_page import printed, visible
from tests.synthetic_sweep import write_ranks


def test_the_cheapest_of_those_that_cannot_be_told_apart_is_recommended(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path, {4: 1.7, 8: 1.01, 16: 0.99, 32: 1.0})
    comparison = load_sweep(folder)
    best = comparison.best.trial
    assert best.params["lora.r"] != 8  # the seed's luck; otherwise the sentence is another one
    recommended, method, needed = conclusions(comparison, ENGLISH)
    cer = 100 * next(t.cer for t in comparison.sweep.finished if t.params["lora.r"] == 8)
    assert recommended == (
        f"Recommended: lora.r=8 (CER {cer:.2f} %), the cheapest of the 3 trials that tie for the best."
    )
    assert "Holm's correction over 6 pairs" in method and "over 30 recordings" in method
    assert re.fullmatch(
        r"To separate lora\.r=\d+ from lora\.r=\d+ at 95 % with power 0\.8, about [\d,]+ utterances in [\d,]+ "
        r"recordings are needed; there are 300 in 30\.",
        needed,
    )


def test_a_best_trial_that_stands_alone_is_recommended(tmp_path: Path) -> None:
    said = conclusions(load_sweep(write_ranks(tmp_path, {4: 1.8, 8: 1.7, 16: 1.0})), ENGLISH)
    assert said[0] == "Recommended: lora.r=16, the best. All 2 other trials are significantly worse."
    assert len(said) == 2


def test_a_best_trial_that_is_the_cheapest_too_is_recommended(tmp_path: Path) -> None:
    said = conclusions(load_sweep(write_ranks(tmp_path, {4: 0.97, 8: 1.0})), ENGLISH)
    assert said[0] == ("Recommended: lora.r=4, the best. One other trial ties with it and is no cheaper.")
    assert "p < 0.05 (matched pairs over recordings). Intervals" in said[1], "one pair needs no correction"


def test_few_recordings_are_owned_up_to(tmp_path: Path) -> None:
    comparison = load_sweep(write_ranks(tmp_path, {4: 1.0, 8: 1.0}, utterances=20, recordings=2))
    (said,), (chinese,) = conclusions(comparison, ENGLISH), conclusions(comparison, CHINESE)
    assert said.endswith(", the best. The evaluation set has 2 recordings, too few for intervals and tests.")
    assert "评测集只有 2 段录音" in chinese
    one = replace(comparison, statistics=replace(comparison.statistics, recordings=1))
    assert "has 1 recording, too few" in conclusions(one, ENGLISH)[0]


def test_missing_utterances_are_named(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path, {4: 1.4, 8: 1.0, 16: 1.0})
    (folder / "0" / "utterances.jsonl").unlink()
    assert conclusions(load_sweep(folder), ENGLISH)[-1] == (
        "Trial 0 was not compared: its utterances.jsonl is missing or differs."
    )


def test_overfitting_is_said_in_words(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path, {8: 1.0, 32: 1.0}, rates=(1e-4,))
    assert conclusions(load_sweep(folder), ENGLISH)[-1] == "One adapter overfitted: lora.r=32 (epoch 3)."


def needing(synthetic: Analysis, utterances: int | None, difference: float) -> list[str]:
    """What is said in both languages when the two best trials would need so many utterances."""
    statistics = synthetic.statistics
    assert statistics.needed is not None and len(statistics.best_group) > 1
    needed = replace(statistics.needed, utterances=utterances, recordings=utterances, difference=difference)
    comparison = replace(synthetic, statistics=replace(statistics, needed=needed))
    return [conclusions(comparison, say)[2] for say in (ENGLISH, CHINESE)]


@pytest.mark.parametrize("utterances", [4529, 100_000])
def test_a_number_of_utterances_that_one_could_record_is_told(synthetic: Analysis, utterances: int) -> None:
    english, chinese = needing(synthetic, utterances, -0.0123)
    assert f"about {utterances:,} utterances" in english and f"{utterances:,} 条" in chinese


def test_a_number_that_nobody_could_record_is_not_told(synthetic: Analysis) -> None:
    english, chinese = needing(synthetic, 3_000_000, -0.000_23)
    assert english.endswith(
        " are equal for all practical purposes: their CERs differ by 0.02 percentage points, and separating them would "
        "take more than 100,000 utterances."
    )
    assert "只差 0.02 个百分点" in chinese and "超过 100,000 条语句" in chinese
    assert "3,000,000" not in english + chinese


def test_differences_too_small_to_be_written_are_still_differences() -> None:
    assert [points(one) for one in (-0.0512, 0.000_051, 0.000_049)] == [
        *("5.12 percentage points", "0.01 percentage points", "less than 0.01 percentage points"),
    ]
    assert points(1e-9, CHINESE) == "不到 0.01 个百分点"


def test_the_terminal_says_what_the_page_says(synthetic: Analysis) -> None:
    lines = printed(synthetic, width=1000).splitlines()
    said = conclusions(synthetic, ENGLISH)
    start = lines.index(said[0])
    assert lines[start : start + len(said)] == said and len(said) == 4
    page = visible(render(synthetic, datetime(2026, 1, 1), ENGLISH))
    assert all(line in page for line in said)
