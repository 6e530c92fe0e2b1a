from __future__ import annotations

from typing import Any

import altair as alt

from multirun_analysis import load_sweep
from multirun_analysis.charts.progress import progress_figures
from multirun_analysis.messages import ENGLISH


def line(figure: Any) -> list[dict[str, Any]]:
    """The points of a figure's line."""
    (found,) = [part for part in figure.spec["layer"] if part["mark"]["type"] == "line"]
    return figure.spec["datasets"][found["data"]["name"]]


def test_pareto_and_best_so_far(sweep: Any) -> None:
    facts = [(8, 0.4, 30.0), (16, 0.3, 50.0), (4, 0.5, 20.0), (32, 0.3, 40.0), (64, 0.45, 10.0)]
    for number, (rank, cer, seconds) in enumerate(facts):
        sweep.trial(number, rank=rank, cer=cer, train_seconds=seconds, baseline=False)
    cost, best = progress_figures(load_sweep(sweep.folder), ENGLISH)
    for figure in (cost, best):
        alt.LayerChart.from_dict(figure.spec)
    on_line = [(point["cost"], point["x"], point["cer"]) for point in line(cost)]
    by_size = [(40_000, 50), (80_000, 40), (160_000, 30)]
    by_time = [(10, 45), (30, 40), (40, 30)]
    assert on_line == [
        *(("trainable_parameters", *point) for point in by_size),
        *(("train_seconds", *point) for point in by_time),
    ]
    (chooser,) = cost.spec["params"]
    assert chooser["bind"]["options"] == ["trainable_parameters", "train_seconds"], "all decoded as fast"
    assert [point["cer"] for point in line(best)] == [40, 30, 30, 30, 30]


def test_two_trials_have_no_progress(sweep: Any) -> None:
    for number, rank in enumerate((4, 8)):
        sweep.trial(number, rank=rank)
    assert not progress_figures(load_sweep(sweep.folder), ENGLISH)
