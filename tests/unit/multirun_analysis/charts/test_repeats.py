from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.repeats import repeats_figure
from multirun_analysis.messages import ENGLISH
from tests.report_page import only


def test_every_repeat_is_a_dot_and_the_band_is_the_spread(synthetic: Analysis) -> None:
    _, rows = only(repeats_figure(synthetic, ENGLISH))
    repeats = sorted(100 * rate for trial in synthetic.sweep.finished for rate in trial.record["cer_repeats"])
    assert sorted(row["cer"] for row in rows if "repeat" in row) == pytest.approx(repeats)
    best = next(adapter for adapter in synthetic.adapters if synthetic.best.trial in adapter.trials)
    sampled = next(trial for trial in best.trials if trial.params["decoding.text_temperature"] == 0.3)
    rates = [100 * rate for rate in sampled.record["cer_repeats"]]
    band = [row for row in rows if "low" in row and row["x"] == 0.3 and row["cer"] == pytest.approx(fmean(rates))]
    assert band and band[0]["low"] == pytest.approx(fmean(rates) - stdev(rates))
    assert band[0]["high"] == pytest.approx(fmean(rates) + stdev(rates))


def test_without_repeats_there_is_no_figure_of_them(sweep_24: Any) -> None:
    assert repeats_figure(load_sweep(sweep_24), ENGLISH) == []
