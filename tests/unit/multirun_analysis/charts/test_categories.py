from __future__ import annotations

from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.categories import category_figure
from multirun_analysis.messages import CHINESE, ENGLISH
from tests.report_page import only


def test_kinds_of_errors_add_up_to_the_cer(synthetic: Analysis) -> None:
    _, rows = only(category_figure(synthetic, ENGLISH))
    shown = [row.trial for row in synthetic.rows if not row.trial.is_base][:4]
    lengths: dict[str, float] = {}
    for row in rows:
        lengths[row["row"]] = lengths.get(row["row"], 0.0) + row["rate"]
    labels = list(lengths)
    assert labels[0].startswith("32 · ") and labels[-1].startswith("base · ") and len(labels) == 5
    for label, trial in zip(lengths, shown, strict=False):
        assert lengths[label] == pytest.approx(100 * trial.cer, rel=1e-6)
    assert {row["category"] for row in rows} >= {"person names", "filler words", "punctuation", "other"}


def test_sweeps_scored_before_there_were_categories(sweep_24: Any) -> None:
    assert category_figure(load_sweep(sweep_24), ENGLISH) == []


def test_a_category_that_nobody_translated_is_shown_as_written(sweep: Any) -> None:
    sweep.trial(0, categories={"sarcasm": 2, "filler": 1})
    _, rows = only(category_figure(load_sweep(sweep.folder), CHINESE))
    assert {row["category"] for row in rows} == {"sarcasm", "语气词"}
