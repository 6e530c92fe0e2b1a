from __future__ import annotations

from typing import Any

from multirun_analysis import load_sweep
from multirun_analysis.charts.heat_map import heat_map
from multirun_analysis.messages import ENGLISH
from tests.report_page import only


def test_a_cell_is_the_lowest_cer_of_its_pair(sweep: Any) -> None:
    for number, (rank, rate, temperature, cer) in enumerate(
        [(2, 1e-3, 0.0, 0.5), (2, 1e-3, 0.3, 0.4), (8, 1e-3, 0.0, 0.3), (2, 3e-3, 0.0, 0.2), (8, 3e-3, 0.0, 0.1)]
    ):
        sweep.trial(number, rank, rate, temperature, cer=cer)
    figure, rows = only(heat_map(load_sweep(sweep.folder), ENGLISH))
    cells = {(row["rank"], row["rate"]): row["word"] for row in rows}
    assert cells == {("2", "0.001"): "40.0", ("8", "0.001"): "30.0", ("2", "0.003"): "20.0", ("8", "0.003"): "10.0"}
    inked = {layer["mark"].get("style"): layer["data"] for layer in figure.spec["layer"][1:]}
    assert set(inked) == {"on-strong", "on-weak"} and "temperature" in figure.caption


def test_one_rank_makes_no_map(sweep: Any) -> None:
    assert heat_map(load_sweep(sweep.grid(ranks=(8,))), ENGLISH) == []
