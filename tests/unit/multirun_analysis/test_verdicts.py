"""The statistics in words, and the leaderboard in the terminal that shows them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from multirun_analysis import load_sweep, print_leaderboard
from multirun_analysis.verdicts import conclusions
from tests.synthetic_errors import Planted
from tests.synthetic_sweep import write_sweep

GRID: dict[str, Any] = {"rates": (5e-5,), "temperatures": (0.0,), "utterances": 300, "recordings": 30}


def sweep_of(folder: Path, factors: dict[int, float], **grid: Any) -> Path:
    truth = Planted(factors={"lora.r": factors})
    return write_sweep(folder / "sweep", ranks=tuple(factors), **GRID | grid, planted=truth)


def shown(folder: Path, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_leaderboard(load_sweep(folder), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_cheapest_of_those_that_cannot_be_told_apart_is_recommended(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, {4: 1.7, 8: 1.01, 16: 0.99, 32: 1.0})
    comparison = load_sweep(folder)
    best = comparison.best.trial
    assert best.params["lora.r"] != 8  # the seed's luck; otherwise the sentence is another one
    recommended, needed = conclusions(comparison)
    cer = 100 * next(t.cer for t in comparison.sweep.finished if t.params["lora.r"] == 8)
    assert recommended == (
        f"Recommended: lora.r=8 (CER {cer:.2f} %), the cheapest of 3 trials that cannot be told apart "
        "(p < 0.05, Holm's correction over all 6 pairs, 30 recordings)."
    )
    assert re.fullmatch(
        r"To tell the two best apart at 95 % with power 0\.8, about [\d,]+ utterances in [\d,]+ recordings are needed; "
        r"there are 300 in 30\.",
        needed,
    )


def test_a_best_trial_that_stands_alone_is_recommended(tmp_path: Path) -> None:
    said = conclusions(load_sweep(sweep_of(tmp_path, {4: 1.8, 8: 1.7, 16: 1.0})))
    assert said == [
        "Recommended: the best one; all 2 other trials are worse "
        "(p < 0.05, Holm's correction over all 3 pairs, 30 recordings)."
    ]


def test_a_best_trial_that_is_the_cheapest_too_is_recommended(tmp_path: Path) -> None:
    said = conclusions(load_sweep(sweep_of(tmp_path, {4: 0.97, 8: 1.0})))
    assert said[0] == (
        "Recommended: the best one; another trial cannot be told apart from it and costs no less "
        "(p < 0.05, 30 recordings)."
    )


def test_few_recordings_are_owned_up_to(tmp_path: Path) -> None:
    said = conclusions(load_sweep(sweep_of(tmp_path, {4: 1.0, 8: 1.0}, utterances=20, recordings=2)))
    assert said == [
        "The evaluation set has 2 recordings: too few for intervals, or to say whether another trial is as good as the "
        "best."
    ]


def test_missing_utterances_are_named(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, {4: 1.4, 8: 1.0, 16: 1.0})
    (folder / "0" / "utterances.jsonl").unlink()
    assert conclusions(load_sweep(folder))[-1] == (
        "Not compared, for their utterances.jsonl is missing or differs: trial 0."
    )


def test_overfitting_is_said_in_words(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, {8: 1.0, 32: 1.0}, rates=(1e-4,))
    assert conclusions(load_sweep(folder))[-1] == (
        "Overfitting: lora.r=32: the validation loss was lowest at epoch 3 and rose again."
    )


def test_the_leaderboard_has_intervals_and_marks_the_group(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, {4: 1.7, 8: 1.01, 16: 0.99, 32: 1.0})
    text, comparison = shown(folder), load_sweep(folder)
    best = comparison.best.trial
    interval = comparison.statistics.interval_of(best)
    assert interval
    half = f"{50 * (interval.high - interval.low):.2f}"
    assert re.search(rf"^ *1 +{best.params['lora.r']} +{100 * best.cer:.2f} +{half} ", text, re.MULTILINE)
    assert len(re.findall(r"^ *≈\d ", text, re.MULTILINE)) == 2
    assert "±" in text and "Recommended: lora.r=8" in text and "…" not in text


def test_without_intervals_the_leaderboard_has_no_column_for_them(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, {4: 1.0, 8: 1.0}, utterances=20, recordings=2)
    assert "±" not in shown(folder)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_leaderboard_of_three_parameters_fits(tmp_path: Path, width: int) -> None:
    folder = write_sweep(tmp_path / "sweep", ranks=(8, 32), utterances=60, recordings=20)
    text = shown(folder, width)
    table = text.split("Best:")[0]
    assert "…" not in table and ("WER" in table) == (width == 120)
