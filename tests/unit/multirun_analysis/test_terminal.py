"""The leaderboard in the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from multirun_analysis import load_sweep, print_leaderboard
from tests.synthetic_errors import Planted
from tests.synthetic_sweep import write_sweep


def four_ranks(folder: Path, **grid: int) -> Path:
    """Rank 4 makes 70 % more errors, the others tie."""
    truth = Planted(factors={"lora.r": {4: 1.7, 8: 1.01, 16: 0.99, 32: 1.0}})
    size = {"utterances": 300, "recordings": 30} | grid
    return write_sweep(
        folder / "sweep", ranks=(4, 8, 16, 32), rates=(5e-5,), temperatures=(0.0,), **size, planted=truth
    )


def shown(folder: Path, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_leaderboard(load_sweep(folder), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_leaderboard_has_intervals_and_marks_the_group(tmp_path: Path) -> None:
    folder = four_ranks(tmp_path)
    text, comparison = shown(folder), load_sweep(folder)
    best = comparison.best.trial
    interval = comparison.statistics.intervals[best]
    half = f"{50 * (interval.high - interval.low):.2f}"
    assert re.search(rf"^ *1 +{best.params['lora.r']} +{100 * best.cer:.2f} +{half} ", text, re.MULTILINE)
    assert len(re.findall(r"^ *≈\d ", text, re.MULTILINE)) == 2
    assert "±" in text and "Recommended: lora.r=8" in text and "…" not in text


def test_without_intervals_the_leaderboard_has_no_column_for_them(tmp_path: Path) -> None:
    folder = four_ranks(tmp_path, utterances=20, recordings=2)
    assert "±" not in shown(folder)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_leaderboard_of_three_parameters_fits(tmp_path: Path, width: int) -> None:
    folder = write_sweep(tmp_path / "sweep", ranks=(8, 32), utterances=60, recordings=20)
    text = shown(folder, width)
    table = text.split("Best:")[0]
    assert "…" not in table and ("WER" in table) == (width == 120)
