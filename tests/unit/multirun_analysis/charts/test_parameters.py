from __future__ import annotations

from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.charts.figure import Figure
from multirun_analysis.charts.parameters import parameter_figures, parameter_note
from multirun_analysis.messages import ENGLISH
from tests.report_page import only


def styles(figure: Figure) -> list[Any]:
    return [layer["mark"].get("style") for layer in figure.spec["layer"]]


def test_each_swept_parameter_has_a_figure_of_all_trials(sweep: Any) -> None:
    comparison = load_sweep(sweep.grid(ranks=(2, 8), temperatures=(0.0, 0.3)))
    figures = {figure.key: figure for figure in parameter_figures(comparison, ENGLISH)}
    assert set(figures) == {"by-lora.r", "by-optim.lr", "by-decoding.text_temperature"}
    figure, rows = only([figures["by-lora.r"]])
    trials = {row["trial"]: row for row in rows if "best" in row}
    assert sorted(row["cer"] for row in trials.values()) == sorted(100 * t.cer for t in comparison.sweep.finished)
    assert {row["x"] for row in trials.values()} == {2, 8}
    (best,) = [row for row in trials.values() if row["best"]]
    assert best["cer"] == pytest.approx(100 * comparison.best.trial.cer)
    assert all(f"{100 * mean:.1f}" in figure.caption for _, mean in comparison.means("lora.r"))


def test_the_base_is_a_curve_along_decoding_settings_and_a_level_elsewhere(sweep: Any) -> None:
    comparison = load_sweep(sweep.grid(ranks=(2, 8), rates=(1e-3,), temperatures=(0.0, 0.3)))
    by_rank, by_temperature = parameter_figures(comparison, ENGLISH)
    assert "base-word" in styles(by_rank) and "base-dot" not in styles(by_rank)
    assert "base-dot" in styles(by_temperature) and "base-word" not in styles(by_temperature)


def test_without_a_base_none_is_drawn_or_spoken_of(sweep: Any) -> None:
    comparison = load_sweep(sweep.grid(ranks=(2, 8), rates=(1e-3,), temperatures=(0.0,), baseline=False))
    figure, _ = only(parameter_figures(comparison, ENGLISH))
    assert not {"base", "base-word", "base-dot"} & set(styles(figure))
    assert parameter_note(comparison, ENGLISH)[-1] == ENGLISH("charts.no_base")
