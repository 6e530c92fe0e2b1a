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
from multirun_analysis.words import conclusions, named, points
from tests.report_page import printed, visible
from tests.synthetic_sweep import write_ranks


def test_the_lowest_is_recommended_where_others_are_not_ruled_out(tmp_path: Path) -> None:
    comparison = load_sweep(write_ranks(tmp_path, {4: 1.7, 8: 1.01, 16: 0.99, 32: 1.0}))
    best = comparison.best.trial
    recommended, gain, method, needed = conclusions(comparison, ENGLISH)
    assert recommended == (
        f"Recommended: trial {best.name} (lora.r={best.params['lora.r']}), CER {100 * best.cer:.2f} %, the lowest. "
        "2 others are not ruled out as the best; with 95 % certainty the truly best one is among these 3."
    )
    base = comparison.lowest_base
    assert base and gain.startswith(f"Against the base, CER {100 * base.cer:.2f} %, it makes ")
    assert "over 30 recordings" in method and "not proven equal" in method
    assert re.fullmatch(
        r"To rule out trial \d \(lora\.r=\d+\) against trial \d \(lora\.r=\d+\) with power 0\.8, about "
        r"[\d,]+ utterances in [\d,]+ recordings are needed; there are 300 in 30\.",
        needed,
    )


def test_a_best_trial_that_rules_the_others_out_is_recommended(tmp_path: Path) -> None:
    said = conclusions(load_sweep(write_ranks(tmp_path, {4: 1.8, 8: 1.7, 16: 1.0})), ENGLISH)
    assert re.fullmatch(
        r"Recommended: trial \d \(lora\.r=16\), CER [\d.]+ %\. It is the best: all 2 others are ruled out\.", said[0]
    )
    assert len(said) == 3


def test_a_cheaper_trial_is_recommended_with_its_price(tmp_path: Path) -> None:
    analysis = load_sweep(write_ranks(tmp_path, {8: 1.0, 4: 1.01}, utterances=3000, recordings=300), margin=0.2)
    best, taken = analysis.best.trial, analysis.statistics.recommended
    assert (best.params["lora.r"], taken.params["lora.r"]) == (8, 4)
    excess = next(one.excess for one in analysis.statistics.standings if one.trial is taken)
    assert taken.cer - best.cer < excess < 0.2 * best.cer
    said, *_ = conclusions(analysis, ENGLISH)
    assert said == (
        f"Recommended: trial {taken.name} (lora.r=4), CER {100 * taken.cer:.2f} %. It is cheaper than trial "
        f"{best.name} (lora.r=8), which has the lowest CER, {100 * best.cer:.2f} %, and with 95 % "
        f"certainty at most {100 * excess / best.cer:.1f} % worse than the best (the margin is 20.0 %)."
    )


def test_the_base_is_kept_where_no_trial_is_shown_to_be_better(tmp_path: Path) -> None:
    write_ranks(tmp_path, {4: 2.9, 8: 2.8}, utterances=100, recordings=20)
    analysis = load_sweep(tmp_path)
    statistics = analysis.statistics
    assert statistics.gain and statistics.gain.interval and not statistics.gain.shown
    assert statistics.recommended is analysis.lowest_base and statistics.choice is analysis.best.trial
    said, method, *_ = conclusions(analysis, ENGLISH)
    assert said.startswith(f"Keep the base: {named(statistics.choice, analysis)} with CER ")
    assert said.endswith(f"than the base without an adapter, {100 * statistics.gain.base.cer:.2f} %.")
    assert method.startswith("A trial is ruled out")


def test_few_recordings_and_missing_groups_are_warned_of(tmp_path: Path) -> None:
    few = conclusions(load_sweep(write_ranks(tmp_path / "few", {4: 1.7, 8: 1.0}, recordings=12)), ENGLISH)
    assert any(line.startswith("12 recordings are few: ") for line in few)
    single = write_ranks(tmp_path / "single", {4: 1.7, 8: 1.0}, utterances=60, recordings=60)
    assert any("prepare with group_column" in line for line in conclusions(load_sweep(single), ENGLISH))


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


@pytest.mark.parametrize("cut", [1, 2])
def test_trials_with_cut_answers_are_counted(synthetic: Analysis, cut: int) -> None:
    finished = [replace(trial, strict=replace(trial.strict, truncated_outputs=3)) for trial in synthetic.sweep.finished]
    sweep = replace(synthetic.sweep, trials=[*finished[:cut], *synthetic.sweep.finished[cut:]])
    said = " ".join(conclusions(replace(synthetic, sweep=sweep), ENGLISH))
    assert ("In 1 trial answers were cut off by decoding.max_new_tokens (3): " in said) == (cut == 1)
    assert ("In 2 trials answers were cut off" in said) == (cut == 2)


def test_overfitting_is_said_in_words(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path, {8: 1.0, 32: 1.0}, rates=(1e-4,))
    assert conclusions(load_sweep(folder), ENGLISH)[-1] == "One adapter overfitted: lora.r=32 (epoch 3)."


def needing(synthetic: Analysis, utterances: int | None, difference: float) -> list[str]:
    """What is said in both languages when the two best trials would need so many utterances."""
    statistics = synthetic.statistics
    assert statistics.needed is not None and len(statistics.best_group) > 1
    needed = replace(statistics.needed, utterances=utterances, recordings=utterances, difference=difference)
    comparison = replace(synthetic, statistics=replace(statistics, needed=needed))
    return [conclusions(comparison, say)[3] for say in (ENGLISH, CHINESE)]


@pytest.mark.parametrize("utterances", [4529, 100_000])
def test_a_number_of_utterances_that_one_could_record_is_told(synthetic: Analysis, utterances: int) -> None:
    english, chinese = needing(synthetic, utterances, -0.0123)
    assert f"about {utterances:,} utterances" in english and f"{utterances:,} 条" in chinese


def test_a_number_that_nobody_could_record_is_not_told(synthetic: Analysis) -> None:
    english, chinese = needing(synthetic, 3_000_000, -0.000_23)
    assert english.endswith(
        " differ by 0.02 percentage points in CER here; if that is the true difference, separating them takes more "
        "than 100,000 utterances."
    )
    assert "相差 0.02 个百分点" in chinese and "超过 100,000 条语句" in chinese
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
    assert lines[start : start + len(said)] == said and len(said) == 5
    page = visible(render(synthetic, datetime(2026, 1, 1), ENGLISH))
    assert all(line in page for line in said)
