"""What each chart shows, against the files that it is made of."""

from __future__ import annotations

import json
from statistics import fmean, stdev
from typing import Any

import altair as alt
import pytest

from multirun_analysis import charts, load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts import Figure
from multirun_analysis.messages import CHINESE, ENGLISH
from tests.report_page import values


def only(figures: list[Figure]) -> tuple[Figure, list[dict[str, Any]]]:
    """The one figure, valid to Vega-Lite's schema, and its data."""
    (figure,) = figures
    alt.LayerChart.from_dict(figure.spec)
    return figure, values(figure.spec)


def test_one_line_per_trial_across_all_axes(synthetic: Analysis) -> None:
    _, rows = only(charts.parallel_figure(synthetic, ENGLISH))
    corners = [row for row in rows if "name" in row]
    axes = ["LoRA rank", "learning rate", "text temperature", "CER %"]
    assert {row["name"] for row in corners} == {str(number) for number in range(8)}
    for trial in synthetic.sweep.finished:
        mine = [row for row in corners if row["name"] == trial.name]
        assert [row["axis"] for row in mine] == axes
        assert all(-0.1 <= row["place"] <= 1.1 for row in mine)
    by_cer = sorted((row for row in corners if row["axis"] == "CER %"), key=lambda row: row["place"])
    assert [row["rate"] for row in by_cer] == sorted(100 * trial.cer for trial in synthetic.sweep.finished)
    assert (by_cer[0]["place"], by_cer[-1]["place"]) == (0, 1)
    higher = [row["place"] for row in corners if row["axis"] == "LoRA rank" and row["trial"].startswith("lora.r=32")]
    lower = [row["place"] for row in corners if row["axis"] == "LoRA rank" and row["trial"].startswith("lora.r=8")]
    assert min(higher) > max(lower) and len(set(higher)) == 4, "lines that share a value lie side by side"


def test_a_plain_comparison_needs_no_parallel_axes(sweep: Any) -> None:
    assert charts.parallel_figure(load_sweep(sweep.grid(rates=(1e-3,), temperatures=(0.0,))), ENGLISH) == []


def test_many_values_lie_where_they_belong(sweep: Any) -> None:
    for number in range(12):
        sweep.trial(number, rank=8 + number % 2, rate=1e-5 * 2**number)
    _, rows = only(charts.parallel_figure(load_sweep(sweep.folder), ENGLISH))
    places = [row["place"] for row in rows if row["axis"] == "learning rate" and "name" in row]
    assert sorted(places) == pytest.approx([number / 11 for number in range(12)])
    assert {row["word"] for row in rows if row["axis"] == "learning rate" and "word" in row} == {"1e-5", "0.02048"}


def test_every_repeat_is_a_dot_and_the_band_is_the_spread(synthetic: Analysis) -> None:
    _, rows = only(charts.repeats_figure(synthetic, ENGLISH))
    repeats = sorted(100 * rate for trial in synthetic.sweep.finished for rate in trial.record["cer_repeats"])
    assert sorted(row["cer"] for row in rows if "repeat" in row) == pytest.approx(repeats)
    best = next(adapter for adapter in synthetic.adapters if synthetic.best.trial in adapter.trials)
    sampled = next(trial for trial in best.trials if trial.params["decoding.text_temperature"] == 0.3)
    rates = [100 * rate for rate in sampled.record["cer_repeats"]]
    band = [row for row in rows if "low" in row and row["x"] == 0.3 and row["cer"] == pytest.approx(fmean(rates))]
    assert band and band[0]["low"] == pytest.approx(fmean(rates) - stdev(rates))
    assert band[0]["high"] == pytest.approx(fmean(rates) + stdev(rates))


def test_without_repeats_there_is_no_figure_of_them(sweep_24: Any) -> None:
    assert charts.repeats_figure(load_sweep(sweep_24), ENGLISH) == []


def test_effects_are_the_statistics(synthetic: Analysis) -> None:
    figure, rows = only(charts.effects_figure(synthetic.statistics, CHINESE))
    drawn = {row["row"]: row for row in rows if "row" in row}
    assert list(drawn) == ["LoRA 秩 8", "LoRA 秩 32", "学习率 5e-5", "学习率 1e-4", "文本温度 0.0", "文本温度 0.3"]
    for effect in synthetic.statistics.effects:
        for one in effect.values:
            row = next(row for row in drawn.values() if row["effect"] == pytest.approx(100 * one.effect))
            assert one.interval and row["low"] == pytest.approx(100 * one.interval.low)
    assert drawn["LoRA 秩 8"]["effect"] > 0 > drawn["LoRA 秩 32"]["effect"]
    assert "加性" not in figure.caption


def test_missing_trials_are_said_at_the_effects(sweep: Any) -> None:
    for number, (rank, rate) in enumerate([(2, 1e-3), (2, 3e-3), (8, 1e-3)]):
        sweep.trial(number, rank, rate)
    figure, _ = only(charts.effects_figure(load_sweep(sweep.folder).statistics, ENGLISH))
    assert "additive fit" in figure.caption


def test_kinds_of_errors_add_up_to_the_cer(synthetic: Analysis) -> None:
    _, rows = only(charts.category_figure(synthetic, ENGLISH))
    shown = [row.trial for row in synthetic.rows if not row.trial.is_base][:4]
    lengths: dict[str, float] = {}
    for row in rows:
        lengths[row["row"]] = lengths.get(row["row"], 0.0) + row["rate"]
    labels = list(lengths)
    assert labels[0].startswith("32 · ") and labels[-1].startswith("base · ") and len(labels) == 5
    for label, trial in zip(lengths, shown, strict=False):
        assert lengths[label] == pytest.approx(100 * trial.cer, rel=1e-6)
    assert {row["category"] for row in rows} >= {"person names", "number format (same value)", "other"}


def test_sweeps_scored_before_there_were_categories(sweep_24: Any) -> None:
    assert charts.category_figure(load_sweep(sweep_24), ENGLISH) == []


def test_a_category_that_nobody_translated_is_shown_as_written(sweep: Any) -> None:
    sweep.trial(0, categories={"sarcasm": 2, "filler": 1})
    _, rows = only(charts.category_figure(load_sweep(sweep.folder), CHINESE))
    assert {row["category"] for row in rows} == {"sarcasm", "语气词"}


def test_the_turn_of_a_validation_loss_is_ringed(synthetic: Analysis) -> None:
    figures = {figure.key: figure for figure in charts.loss_figures(synthetic, ENGLISH)}
    (ring,) = [layer for layer in figures["val-loss"].spec["layer"] if layer["mark"].get("style") == "ring"]
    (mark,) = ring["data"]["values"] if "values" in ring.get("data", {}) else values(figures["val-loss"].spec)[-1:]
    assert mark["adapter"] == "lora.r=32 optim.lr=1e-4" and mark["step"] == 300
    assert "later steps overfit" in figures["val-loss"].caption
    assert "overfit" not in json.dumps(figures["train-loss"].spec) + figures["train-loss"].caption
